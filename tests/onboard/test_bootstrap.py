"""Landing as a process of its own on plain pipes; over SSH, where its pipe is a socket, it is met in tests/devices."""

import ast
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robustdeploy.onboard import bootstrap

SOURCE = Path(bootstrap.__file__).read_text("utf-8")
ECHO = b"import os\nos.write(1, b'%d\\n' % os.getpid())\nwhile part := os.read(0, 99):\n    os.write(1, part.upper())\n"
DEAF = b"import os, time\nos.write(1, b'%d\\n' % os.getpid())\ntime.sleep(600)\n"
LEAVES = (
    b"import os, subprocess\nchild = subprocess.Popen(['sleep', '600'], stderr=subprocess.DEVNULL)\n"
    b"os.write(1, b'%d\\n' % child.pid)\nos._exit(3)\n"
)


@pytest.fixture
def land(tmp_path):
    """Start bootstrap as a board's Python would; whatever was started is gone at the end."""
    started = []

    def start(payload, grace=0.2, lifetime=60, size=None, python_source=SOURCE, folder=tmp_path / "a" / "b"):
        digest = hashlib.sha256(payload).hexdigest()
        numbers = [str(len(payload) if size is None else size), str(lifetime), str(grace)]
        command = [sys.executable, "-c", python_source, str(folder), digest, *numbers]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0))
        return started[-1]

    yield start
    for process in started:
        process.stdin.close()  # which ends bootstrap and its agent
        process.wait(10)
        process.stdout.close()
        process.stderr.close()


def line(process):
    text = process.stdout.readline().decode()
    assert text.endswith("\n"), process.stderr.read().decode()
    return text.strip()


def facts(process):
    mark, _, told = line(process).partition(" ")
    assert mark == "robustdeploy-board"
    return json.loads(told)


def landed(process, payload):
    assert facts(process)["have"] is False
    process.stdin.write(b"bytes\n" + payload)
    assert line(process) == "robustdeploy-ready"
    return int(line(process))


def alive(pid):
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_what_is_sent_ahead_of_anything_else_is_plain_and_old_enough():
    assert SOURCE.isascii()
    ast.parse(SOURCE, feature_version=(3, 7))
    imports = [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.Import)]
    assert {name.name.partition(".")[0] for node in imports for name in node.names} <= sys.stdlib_module_names


def test_the_agent_is_told_of_stored_and_run(land, tmp_path):
    process = land(ECHO)
    told = facts(process)
    assert told["python"] == list(sys.version_info[:3])
    assert told["numpy"] is True
    assert told["free"] > 0
    process.stdin.write(b"bytes\n" + ECHO + b"hello")  # what follows the agent is the agent's to read
    assert line(process) == "robustdeploy-ready"
    line(process)
    assert process.stdout.read(5) == b"HELLO"
    process.stdin.close()
    assert process.wait(5) == 0
    digest = hashlib.sha256(ECHO).hexdigest()
    assert bootstrap.agent_path(tmp_path / "a" / "b", digest).read_bytes() == ECHO
    assert (tmp_path / "a" / "b").stat().st_mode & 0o077 == 0


def test_an_agent_that_is_there_is_known_by_its_content(land):
    process = land(ECHO)
    landed(process, ECHO)
    process.stdin.close()
    process.wait(5)
    again = land(ECHO)
    assert facts(again)["have"] is True
    again.stdin.write(b"start\n")
    assert line(again) == "robustdeploy-ready"


def test_a_damaged_agent_is_not_stored(land, tmp_path):
    process = land(ECHO)
    facts(process)
    process.stdin.write(b"bytes\n" + ECHO[:-1] + b"!")
    assert process.wait(5) == 1
    assert b"could not be stored: the agent arrived damaged" in process.stderr.read()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["lock"]


def test_an_agent_that_a_full_board_cannot_take_is_told_with_the_fix(land, small_disk):
    process = land(large := ECHO + b"#" * 100_000, folder=small_disk)
    facts(process)
    process.stdin.write(b"bytes\n" + large)
    assert process.wait(5) == 1
    said = process.stderr.read().decode()
    assert "could not be stored: [Errno 28] No space left on device" in said
    assert f"make room in {small_disk} or set the link's folder" in said
    assert len(said.splitlines()) == 1
    assert [path.name for path in small_disk.iterdir()] == ["lock"]


@pytest.mark.parametrize("sent", [b"", b"by", b"bytes\n", b"bytes\n" + ECHO[:10]])
def test_a_host_that_hangs_up_early_leaves_nothing_behind(land, tmp_path, sent):
    process = land(ECHO)
    facts(process)
    process.stdin.write(sent)
    process.stdin.close()
    assert process.wait(5) == 1
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["lock"]


def test_an_agent_that_does_not_look_at_its_pipe_ends_with_its_host(land):
    process = land(DEAF)
    pid = landed(process, DEAF)
    process.stdin.close()
    assert process.wait(5) == 128 + signal.SIGKILL
    assert not alive(pid)


def test_what_an_agent_leaves_running_is_ended(land):
    process = land(LEAVES)
    left = landed(process, LEAVES)
    assert process.wait(5) == 3
    deadline = time.monotonic() + 5  # it is no child of bootstrap's, so its end cannot be waited for there
    while alive(left) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(left)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_landing_ends_the_agent_too(land, number):
    process = land(DEAF)
    pid = landed(process, DEAF)
    os.kill(process.pid, number)
    assert process.wait(5) == 128 + signal.SIGKILL
    assert not alive(pid)


def test_an_agent_whose_time_is_over_is_ended_with_a_word(land):
    process = land(DEAF, lifetime=0.3)
    pid = landed(process, DEAF)
    assert process.wait(5) == 128 + signal.SIGKILL
    assert b"ended after its time of 0.3 s" in process.stderr.read()
    assert not alive(pid)


def test_a_second_run_waits_for_the_first_and_then_gives_up(land):
    first = land(DEAF)
    landed(first, DEAF)
    impatient = land(DEAF, python_source=SOURCE.replace("LOCK_S = 15.0", "LOCK_S = 0.1"))
    assert "another run holds this board" in facts(impatient)["problem"]
    assert impatient.wait(5) == 1
    patient = land(DEAF)
    time.sleep(0.3)
    first.stdin.close()
    assert facts(patient)["have"] is True


def test_landing_sleeps_while_the_agent_works(land):
    process = land(DEAF)
    landed(process, DEAF)
    time.sleep(0.2)
    before = switches(process.pid)
    time.sleep(1.0)
    assert switches(process.pid) - before <= 2


def switches(pid):
    """Times any thread of the process was put on a core of its own will."""
    statuses = [task / "status" for task in Path(f"/proc/{pid}/task").iterdir()]
    lines = [text for status in statuses for text in status.read_text().splitlines()]
    return sum(int(text.split()[1]) for text in lines if text.startswith("voluntary_ctxt_switches"))
