import os
import threading
import time

import pytest

from robustdeploy.devices.channel import Channel
from robustdeploy.devices.link import Pipe
from robustdeploy.errors import BoardError
from robustdeploy.onboard.wire import read_message, write_message


@pytest.fixture
def ends():
    """A channel and the far ends of its pipe."""
    to_host, from_peer = os.pipe()
    to_peer, from_host = os.pipe()
    with (
        os.fdopen(to_host, "rb") as reader,
        os.fdopen(from_host, "wb", buffering=0) as writer,
        os.fdopen(to_peer, "rb", buffering=0) as peer_reads,
        os.fdopen(from_peer, "wb", buffering=0) as peer_writes,
    ):
        yield Channel(Pipe(reader, writer, "there", lambda: "gone home")), peer_reads, peer_writes


def test_a_silent_peer_meets_the_deadline(ends):
    channel, _, _ = ends
    channel.allow(0.2)
    began = time.monotonic()
    with pytest.raises(BoardError, match=r"there: no answer for 0\.2 s"):
        read_message(channel)
    assert 0.2 <= time.monotonic() - began < 2


def test_a_peer_that_trickles_meets_the_deadline_too(ends):
    channel, _, peer = ends
    stop = threading.Event()

    def trickle():
        for byte in b"RDep" * 100:
            if stop.wait(0.02):
                return
            peer.write(bytes([byte]))

    thread = threading.Thread(target=trickle)
    thread.start()
    channel.allow(0.3)
    with pytest.raises(BoardError, match="no answer"):
        [channel.readinto(memoryview(bytearray(1))) for _ in range(400)]
    stop.set()
    thread.join()


def test_a_peer_that_does_not_read_meets_the_deadline(ends):
    channel, _, _ = ends
    channel.allow(0.2)
    with pytest.raises(BoardError, match="no answer"):
        write_message(channel, {"x": "a" * 500_000})


def test_a_peer_that_hung_up_is_told(ends):
    channel, peer_reads, peer_writes = ends
    peer_reads.close()
    peer_writes.close()
    channel.allow(5)
    with pytest.raises(BoardError, match="there: the agent is gone: gone home"):
        write_message(channel, {"x": 1})
    assert read_message(channel) is None


def test_messages_larger_than_the_pipe_pass_whole(ends):
    channel, peer_reads, peer_writes = ends
    answered = []

    def echo():
        message = read_message(peer_reads)
        answered.append(message.head)
        write_message(peer_writes, message.head)

    thread = threading.Thread(target=echo)
    thread.start()
    channel.allow(10)
    write_message(channel, {"x": "a" * 900_000})
    assert read_message(channel).head == {"x": "a" * 900_000}
    thread.join()
    assert answered
