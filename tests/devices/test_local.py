import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from robustdeploy.devices.board import board_from
from robustdeploy.devices.local import Local, Tail, said
from robustdeploy.errors import BoardError, StorageError


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def gone(pid, seconds=5.0):
    until = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(pid)


@pytest.fixture
def program(tmp_path):
    def written(text):
        path = tmp_path / "agent.py"
        path.write_text(textwrap.dedent(text))
        return path

    return written


def test_everything_that_the_agent_started_is_gone_afterwards(program):
    agent = program(
        """
        import subprocess, sys
        child = subprocess.Popen(["sleep", "300"])
        sys.stdout.write(f"{child.pid}\\n"); sys.stdout.flush()
        sys.stdin.read()
        """
    )
    with Local().open(agent) as pipe:
        pid = int(pipe.reader.readline())
        assert alive(pid)
    assert gone(pid)


def test_an_agent_that_ignores_the_end_is_killed_and_leaves_no_zombie(program):
    agent = program(
        """
        import os, signal, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.stdout.write(f"{os.getpid()}\\n"); sys.stdout.flush()
        time.sleep(300)
        """
    )
    began = time.monotonic()
    with Local().open(agent) as pipe:
        pid = int(pipe.reader.readline())
    assert not Path(f"/proc/{pid}").exists()
    assert time.monotonic() - began < 10


def test_its_folder_is_its_own_and_is_removed(agent, tmp_path):
    with board_from(Local(), agent) as board:
        assert board.facts["agent"]
        folders = [p for p in Path("/proc").glob("[0-9]*/cwd") if "robustdeploy-" in _target(p)]
        mine = {_target(p) for p in folders if f"{os.getpid()}" in _parent(p)}
        assert len(mine) == 1
    assert not Path(mine.pop()).exists()


def _target(link):
    try:
        return str(link.readlink())
    except OSError:
        return ""


def _parent(link):
    try:
        return link.with_name("stat").read_text().rpartition(")")[2].split()[1]
    except OSError:
        return ""


def test_a_folder_that_is_named_keeps_what_was_sent(agent, net, tmp_path):
    for _ in range(2):
        with board_from(Local(workdir=str(tmp_path / "kept")), agent) as board:
            sha256 = board.put(net)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [sha256]


def test_its_last_words_are_told(program):
    agent = program("import sys; sys.stderr.write('x' * 100000 + '\\nno such library: libfoo.so'); sys.exit(3)")
    words = r"ended with status 3 and said: .*no such library: libfoo\.so"
    with pytest.raises(BoardError, match=words), board_from(Local(), agent):
        pass


def test_a_python_that_is_not_there_is_told(agent):
    link = Local(python="/no/python")
    with pytest.raises(BoardError, match="cannot be started with /no/python"), link.open(agent):
        pass


def test_the_tail_is_bounded():
    reader, writer = os.pipe()
    tail = Tail(os.fdopen(reader, "rb", buffering=0))
    with os.fdopen(writer, "wb") as stream:
        stream.write(b"a" * 1_000_000 + b"end")
    tail.finish()
    assert len(tail.text()) == 8192
    assert tail.text().endswith("end")
    assert said("one\n\ntwo\nthree\nfour") == " and said: two | three | four"


HOST = """
import sys, time
from pathlib import Path
import numpy as np
from robustdeploy.devices.board import board_from
from robustdeploy.devices.local import Local
from robustdeploy.onboard.types import Threat
with board_from(Local(), Path(sys.argv[1])) as board:
    onnx = board.put(Path(sys.argv[2]))
    board.open_engine("null", board.compile("null", onnx, {"classes": 1000}).files)
    images = np.random.default_rng(0).integers(0, 256, (400, 3, 32, 32)).astype(np.uint8)
    labels = board.score(images).argmax(1)
    print("ready", flush=True)
    board.attack("square", {"queries": 10**8}, Threat(eps=1/255), 1, images, labels, labels)
"""


@pytest.mark.parametrize("idle", [False, True])
def test_when_the_host_is_killed_its_agent_ends(agent, net, idle, tmp_path):
    code = HOST if not idle else HOST.replace("    board.attack", "    time.sleep(300)\n    board.attack")
    command = [sys.executable, "-c", code, str(agent), str(net)]
    host = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert host.stdout.readline() == b"ready\n"
    time.sleep(0.3)
    children = Path(f"/proc/{host.pid}/task/{host.pid}/children").read_text().split()
    assert len(children) == 1
    assert alive(int(children[0]))
    host.send_signal(signal.SIGKILL)
    host.wait()
    host.stdout.close()
    assert gone(int(children[0]))
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


def test_no_room_for_the_agents_folder_is_told_with_the_fix(agent, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    words = r"no temporary folder to work in: .*; make room there or set TMPDIR"
    with pytest.raises(StorageError, match=words), Local().open(agent):
        pass
