"""The server of an emulated board: started and stopped twice, ports that are taken, and nothing left behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robustdeploy.devices.emulator.folder import whole_board
from robustdeploy.devices.emulator.processes import MARK, kill, processes_of, started_at
from robustdeploy.devices.emulator.server import running, start, stop
from robustdeploy.errors import BoardError


def carrying(mark):
    """All processes with the mark of a board, found without the code that is tested."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def mounts():
    return Path("/proc/mounts").read_text()


@pytest.fixture
def board(own_emulated_board):
    folder, _ = whole_board(own_emulated_board)
    yield folder
    stop(folder)


@pytest.mark.slow
def test_a_board_is_started_and_stopped_and_nothing_is_left(board):
    before = mounts()
    server = start(board)
    assert running(board) == server
    assert started_at(server.pid) == server.began
    words = ["ssh", "-F", str(board.config), "-o", "BatchMode=yes", "aarch64-emulated"]
    # A command whose client is killed goes on, on any board; so does one that has left its session.
    code = "import os, time; os.fork() or os.setsid(); time.sleep(600)"
    client = subprocess.Popen([*words, f"{board.python} -c '{code}'"])
    until = time.monotonic() + 30
    while len(carrying(board.path)) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    client.send_signal(signal.SIGKILL)
    client.wait()
    assert len(carrying(board.path)) >= 2
    assert stop(board) >= 2
    assert carrying(board.path) == []
    assert mounts() == before
    assert running(board) is None
    assert stop(board) == 0


@pytest.mark.slow
def test_a_port_that_is_taken_is_told_and_a_free_one_serves(board):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BoardError, match=f"port {port} of this machine is taken; leave --port out"):
            start(board, port)
        assert running(board) is None
    assert start(board, port).port == port


def test_a_number_that_another_process_has_now_is_no_server(board):
    (board.ssh).mkdir(exist_ok=True)
    (board.ssh / "server.json").write_text(f'{{"pid": {os.getpid()}, "began": 1, "port": 22}}')
    assert running(board) is None
    assert stop(board) == 0
    assert started_at(os.getpid()) is not None


def test_processes_are_found_by_parent_and_by_mark():
    code = "import subprocess, time; subprocess.Popen(['sleep', '600']); time.sleep(600)"
    parent = subprocess.Popen([sys.executable, "-c", code])
    marked = subprocess.Popen(["sleep", "600"], env={**os.environ, MARK: "here"}, start_new_session=True)
    try:
        until = time.monotonic() + 10
        while len(processes_of(parent.pid, "here")) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        found = processes_of(parent.pid, "here")
        assert marked.pid in found
        assert len(found) == 2
        assert processes_of(parent.pid, "elsewhere") == [pid for pid in found if pid != marked.pid]
        assert processes_of(None, "elsewhere") == []
        parent.kill()
        parent.wait()
        assert kill([marked.pid, *found], 0.2) in ([], [marked.pid])  # a child of ours stays until it is waited for
    finally:
        for process in (parent, marked):
            process.kill()
            process.wait()
