"""The SSH link against a real sshd on loopback, with keys, known hosts and configuration of its own."""

import getpass
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipapp
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from robustdeploy.core.target import Target, Toolchain
from robustdeploy.devices.board import board_from
from robustdeploy.devices.build import build_engine, check_fits
from robustdeploy.devices.ssh import Ssh, explain
from robustdeploy.devices.toolchain import installed_on
from robustdeploy.errors import ArtifactError, BoardError, ToolchainError, UsageError
from robustdeploy.export.agent import build_agent

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
READY = SSHD and shutil.which("ssh") and shutil.which("ssh-keygen")
needs_sshd = pytest.mark.skipif(not READY, reason="OpenSSH's server or client is not installed: no link can be opened")

# Stand-in agents: they tell their own process id first, so that a test can see whether they are gone.
TELL = "import os, sys, time, signal, subprocess\nos.write(1, b'%d\\n' % os.getpid())\n"
ECHO = TELL + "while part := os.read(0, 4096):\n    os.write(1, part.upper())\n"
DEAF = TELL + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)\n"
PARENT = TELL + "child = subprocess.Popen(['sleep', '600'])\nos.write(1, b'%d\\n' % child.pid)\ntime.sleep(600)\n"
FAILS = TELL + "sys.stderr.write('no engine here \\x1b[31m\\n')\nsys.exit(7)\n"


def key(path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text().split()[:2]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, process):
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, "sshd ended"
        time.sleep(0.05)
    pytest.fail("sshd does not listen")


class Board:
    """A running sshd and the files around it."""

    def __init__(self, folder):
        self.folder = folder
        self.port = free_port()
        self.host_key = key(folder / "host")
        (folder / "authorized").write_text(" ".join(key(folder / "user")) + "\n")
        lines = {
            "ListenAddress": "127.0.0.1",
            "Port": self.port,
            "HostKey": folder / "host",
            "AuthorizedKeysFile": folder / "authorized",
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            # Without it bash reads the login files of whoever runs the tests, which may do anything.
            "SetEnv": 'SHLVL="1"',
        }
        (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # sshd, started by root, insists on its privilege separation folder
        command = [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log)
        wait_for(self.port, self.process)

    def sessions(self):
        return children(self.process.pid)

    def stop(self):
        for pid in self.sessions():
            os.kill(pid, signal.SIGKILL)
        self.process.terminate()
        self.process.wait()


def children(pid):
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(part) for part in text.split()]


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    board = Board(tmp_path_factory.mktemp("board"))
    yield board
    board.stop()


@pytest.fixture
def link(board, tmp_path):
    """A link that is set up as it should be: the host key is known and the user's key is accepted."""
    file = config(board, tmp_path)
    return Ssh("board", python=sys.executable, folder=str(tmp_path / "cache"), config=file, grace_s=1)


def config(board, folder, host_key=None, identity=None, port=None):
    host_key = board.host_key if host_key is None else host_key
    entry = f"[127.0.0.1]:{board.port} {' '.join(host_key)}\n" if host_key else ""
    (folder / "known").write_text(entry)
    lines = {
        "HostName": "127.0.0.1",
        "Port": port or board.port,
        "User": getpass.getuser(),
        "IdentityFile": identity or board.folder / "user",
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": folder / "known",
        "GlobalKnownHostsFile": "none",
        "StrictHostKeyChecking": "no",  # a careless configuration, which the link must not follow
    }
    file = folder / "config"
    file.write_text("Host board\n" + "".join(f"  {name} {value}\n" for name, value in lines.items()))
    return str(file)


def agent(folder, text):
    source = folder / "agent"
    source.mkdir()
    (source / "__main__.py").write_text(text)
    zipapp.create_archive(source, folder / "agent.pyz")
    return folder / "agent.pyz"


def read_line(pipe):
    line = b""
    while not line.endswith(b"\n"):
        byte = pipe.reader.read(1)
        assert byte, pipe.failure()
        line += byte
    return line.strip()


def write_all(pipe, data):
    while data:
        data = data[pipe.writer.write(data) :]


def gone(pid, within_s=6.0):
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


@needs_sshd
def test_what_is_written_reaches_the_agent_and_its_answer_comes_back(link, tmp_path):
    with link.open(agent(tmp_path, ECHO)) as pipe:
        pid = int(read_line(pipe))
        write_all(pipe, b"over there\n")
        assert read_line(pipe) == b"OVER THERE"
        assert pipe.where == "board"
        assert not gone(pid, 0.1)
        assert "open but the agent is silent" in pipe.failure()
    assert gone(pid, 0.5)
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.suffix == ".pyz"] == [stored(tmp_path).name]


def stored(folder):
    return next((folder / "cache").glob("agent-*.pyz"))


@needs_sshd
def test_the_real_agent_answers_scores_and_keeps_what_it_was_sent(link, tmp_path):
    build_agent(tmp_path / "agent.pyz")
    (tmp_path / "net.onnx").write_bytes(b"a graph, to a toolchain that reads none")
    images = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    with board_from(link, tmp_path / "agent.pyz") as board:
        assert board.facts["python"] == platform.python_version()
        compiled = board.compile("null", board.put(tmp_path / "net.onnx"))
        board.open_engine("null", compiled.files)
        first = board.score(images)
        assert first.shape == (2, 10)
    with board_from(link, tmp_path / "agent.pyz") as board:
        board.open_engine("null", compiled.files)  # which outlived the connection
        assert np.array_equal(board.score(images), first)


@needs_sshd
@pytest.mark.parametrize("where", ["board", "host"])
def test_an_engine_is_built_for_a_board_over_ssh_fetched_and_sent_to_another(
    where, link, split, split_agent, net, images, tmp_path
):
    asked = Target(name="t", backend=Toolchain(name="split"), build_on=where)
    with board_from(link, split_agent) as board:
        built = build_engine(board, asked, net, split_agent, tmp_path / "engine", lambda *_: None)
        board.send(tmp_path / "engine", built.files)
        board.open_engine("split", built.files)
        first = board.score(images)
    with board_from(replace(link, folder=str(tmp_path / "another")), split_agent) as fresh:
        check_fits(built, installed_on(fresh, asked))
        fresh.send(tmp_path / "engine", built.files)
        fresh.open_engine("split", built.files)
        assert np.array_equal(fresh.score(images), first)


@needs_sshd
def test_large_binary_messages_pass_unchanged(link, tmp_path):
    data = bytes(range(256)) * 4096  # every byte, also those that terminals and shells act on
    back = "while part := os.read(0, 65536):\n    os.write(1, part)\n"
    with link.open(agent(tmp_path, TELL + back)) as pipe:
        read_line(pipe)
        sender = threading.Thread(target=write_all, args=(pipe, data))
        sender.start()
        got = b""
        while len(got) < len(data) and (part := pipe.reader.read(65536)):
            got += part
        sender.join()
        assert got == data


@needs_sshd
def test_an_agent_that_is_there_is_not_sent_again_and_a_damaged_one_is(link, tmp_path):
    file = agent(tmp_path, ECHO)
    with link.open(file) as pipe:
        read_line(pipe)
    first = stored(tmp_path).stat().st_ino
    with link.open(file) as pipe:
        read_line(pipe)
    assert stored(tmp_path).stat().st_ino == first
    stored(tmp_path).write_bytes(b"damaged")
    with link.open(file) as pipe:
        read_line(pipe)
    assert stored(tmp_path).read_bytes() == file.read_bytes()


@needs_sshd
@pytest.mark.parametrize("text", [DEAF, PARENT], ids=["deaf", "parent"])
def test_an_agent_that_does_not_look_at_its_pipe_is_gone_after_closing_with_all_it_started(link, tmp_path, text):
    with link.open(agent(tmp_path, text)) as pipe:
        pids = [int(read_line(pipe)) for _ in range(2 if text is PARENT else 1)]
    assert all(gone(pid, 0.5) for pid in pids)


@needs_sshd
def test_a_connection_that_is_cut_is_explained_and_leaves_no_agent(board, link, tmp_path):
    before = set(board.sessions())
    with link.open(agent(tmp_path, DEAF)) as pipe:
        pid = int(read_line(pipe))
        (session,) = set(board.sessions()) - before
        for inner in [*children(session), session]:
            if inner != pid and "sshd" in Path(f"/proc/{inner}/comm").read_text():
                os.kill(inner, signal.SIGKILL)
        assert pipe.reader.read(1) == b""
        assert "board cut the connection" in pipe.failure()
    assert gone(pid)


@needs_sshd
def test_an_agent_that_fails_is_explained_with_its_last_words(link, tmp_path):
    with link.open(agent(tmp_path, FAILS)) as pipe:
        read_line(pipe)
        assert pipe.reader.read(1) == b""
        assert pipe.failure() == "the agent on board ended with exit status 7 (no engine here [31m)"


@needs_sshd
def test_an_agent_whose_time_is_over_is_ended(link, tmp_path):
    with replace(link, timeout_s=1).open(agent(tmp_path, DEAF)) as pipe:
        pid = int(read_line(pipe))
        assert pipe.reader.read(1) == b""
        assert "ended after its time of 1 s" in pipe.failure()
    assert gone(pid, 0.5)


@needs_sshd
def test_two_runs_do_not_share_a_board(link, tmp_path, monkeypatch):
    with link.open(agent(tmp_path, ECHO)) as pipe:
        read_line(pipe)
        patient = Ssh.arguments
        impatient = lambda *given: [part.replace("LOCK_S = 15.0", "LOCK_S = 0.1") for part in patient(*given)]  # noqa: E731
        monkeypatch.setattr(Ssh, "arguments", impatient)
        told = r"another run holds this board \(.*/lock\) since \d\d:\d\d:\d\d from 127.0.0.1; wait for it, or end it"
        refused_with(replace(link), tmp_path / "agent.pyz", told + r" there with `kill \d+`")
        pipe.writer.write(b"still here\n")
        assert read_line(pipe) == b"STILL HERE"


@needs_sshd
def test_what_a_lost_connection_of_the_same_run_left_makes_way(link, tmp_path):
    with link.open(agent(tmp_path, DEAF)) as lost:
        pid = int(read_line(lost))
        # As after a cable was pulled: the board knows nothing of it, and its agent still waits for the host.
        with link.open(tmp_path / "agent.pyz") as pipe:
            assert int(read_line(pipe)) != pid
            assert gone(pid, 0.5)


@needs_sshd
def test_an_agent_whose_guard_is_killed_still_holds_the_board_and_ends_in_time(link, tmp_path, monkeypatch):
    patient = Ssh.arguments
    impatient = lambda *given: [part.replace("LOCK_S = 15.0", "LOCK_S = 0.1") for part in patient(*given)]  # noqa: E731
    monkeypatch.setattr(Ssh, "arguments", impatient)
    with replace(link, timeout_s=3, grace_s=0).open(agent(tmp_path, DEAF)) as pipe:
        pid = int(read_line(pipe))
        holder = json.loads((tmp_path / "cache" / "lock").read_text())
        assert holder["agent"] == pid
        os.kill(holder["pid"], signal.SIGKILL)
        refused_with(link, tmp_path / "agent.pyz", "another run holds this board")
        assert gone(pid, 8)


def refused_with(link, file, words):
    with pytest.raises(BoardError, match=words) as caught, link.open(file):
        pytest.fail("the link opened")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4


@needs_sshd
def test_an_unknown_host_key_is_refused_and_not_learnt(board, link, tmp_path):
    config(board, tmp_path, host_key=[])
    refused_with(link, agent(tmp_path, ECHO), "host key of board is not known; compare the fingerprint")
    assert (tmp_path / "known").read_text() == ""
    assert not (tmp_path / "cache").exists()


@needs_sshd
def test_a_changed_host_key_is_refused_and_nothing_is_sent(board, link, tmp_path):
    config(board, tmp_path, host_key=key(tmp_path / "other"))
    refused_with(link, agent(tmp_path, ECHO), "another host key than the one that is known")
    assert not (tmp_path / "cache").exists()


@needs_sshd
def test_a_key_the_board_does_not_know_is_refused(board, link, tmp_path):
    key(tmp_path / "stranger")
    config(board, tmp_path, identity=tmp_path / "stranger")
    refused_with(link, agent(tmp_path, ECHO), "board refused the login; put your public key there")


@needs_sshd
def test_a_port_where_nothing_listens_is_named(board, link, tmp_path):
    config(board, tmp_path, port=free_port())
    refused_with(link, agent(tmp_path, ECHO), "board refused the connection; see that sshd runs")


@needs_sshd
def test_a_name_that_does_not_resolve_is_named(link, tmp_path):
    refused_with(replace(link, host="no-such-board.invalid"), agent(tmp_path, ECHO), "cannot be resolved")


@needs_sshd
def test_a_configuration_that_is_missing_is_named(link, tmp_path):
    lost = replace(link, config=str(tmp_path / "none"))
    refused_with(lost, agent(tmp_path, ECHO), "SSH configuration cannot be read")


@needs_sshd
def test_a_missing_interpreter_is_named(link, tmp_path):
    refused_with(replace(link, python="python-none"), agent(tmp_path, ECHO), "python-none cannot be run on board")


def script(folder, text):
    file = folder / "interpreter"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


@needs_sshd
def test_a_board_without_numpy_is_named(link, tmp_path):
    bare = script(tmp_path, f'exec {sys.executable} -I -S "$@"')
    refused_with(replace(link, python=bare), agent(tmp_path, ECHO), "has no numpy; install it there")


@needs_sshd
def test_a_board_with_too_little_space_is_named(link, tmp_path):
    refused_with(replace(link, free_mib=1 << 40), agent(tmp_path, ECHO), r"MiB free in .* MiB are needed; make room")


@needs_sshd
def test_a_folder_that_cannot_be_made_is_named(link, tmp_path):
    (tmp_path / "cache").write_text("a file")
    refused_with(link, agent(tmp_path, ECHO), "board cannot take the agent into")


@needs_sshd
def test_what_login_scripts_print_is_passed_over(link, tmp_path):
    chatty = script(tmp_path, f'echo "Welcome to the board"\nprintf "robustdeploy"\necho\nexec {sys.executable} "$@"')
    with replace(link, python=chatty).open(agent(tmp_path, ECHO)) as pipe:
        assert int(read_line(pipe)) > 1


@needs_sshd
@pytest.mark.parametrize("said", ["{}", '{"python": 3}', "not json", "[]", '{"python": ["x"], "numpy": 1}'])
def test_facts_that_are_none_are_refused(link, tmp_path, said):
    odd = script(tmp_path, f"echo 'robustdeploy-board {said}'\ncat >/dev/null")
    refused_with(replace(link, python=odd), agent(tmp_path, ECHO), "something else than its facts")


@needs_sshd
def test_a_python_that_is_too_old_is_named(link, tmp_path):
    facts = '{"python": [3, 8, 10], "numpy": true, "free": 1e12, "have": true}'
    old = script(tmp_path, f"echo 'robustdeploy-board {facts}'\ncat >/dev/null")
    refused_with(replace(link, python=old), agent(tmp_path, ECHO), r"Python 3\.8\.10; 3\.10 or newer is needed")


@needs_sshd
def test_a_board_that_prints_without_end_is_given_up(link, tmp_path):
    refused_with(replace(link, python=script(tmp_path, "yes")), agent(tmp_path, ECHO), "prints without end")


@pytest.mark.parametrize("host", ["", "-oProxyCommand=x", "a b", "u@-x", "a;b", "$(x)", "a\nb", "a@b@c", "`x`", "a|b"])
def test_hosts_that_something_could_take_for_more_than_a_name_are_refused(host):
    with pytest.raises(UsageError, match="cannot be given to SSH"):
        Ssh(host)


@pytest.mark.parametrize("host", ["orin", "nv@orin.lan", "10.0.0.7", "root@fe80::1%eth0", "my_board-2"])
def test_names_and_addresses_are_taken(host):
    assert Ssh(host).arguments(b"")[-2] == host


@pytest.mark.parametrize("field", ["python", "folder", "command"])
@pytest.mark.parametrize("value", ["", "-c", "a\nb"])
def test_fields_that_could_be_options_are_refused(field, value):
    with pytest.raises(UsageError, match=f"the link's {field} is"):
        Ssh("board", **{field: value})


def test_the_client_is_told_to_be_strict_and_gets_no_shell():
    arguments = Ssh("board", folder="~/cache dir", python="it's").arguments(b"agent")
    options = [value for flag, value in pairwise(arguments) if flag == "-o"]
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes", "ForwardAgent=no", "ConnectTimeout=10"} <= set(options)
    assert arguments[-3:-1] == ["--", "board"]
    assert arguments[-1].startswith("exec 'it'\"'\"'s' -c ")
    assert "'cache dir'" in arguments[-1]
    assert arguments[-1].isascii()


def test_a_missing_client_is_named_with_its_fix(tmp_path):
    file = agent(tmp_path, ECHO)
    with pytest.raises(ToolchainError, match="install OpenSSH"), Ssh("board", command="ssh-none").open(file):
        pytest.fail("the link opened")


def test_a_missing_agent_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"none\.pyz cannot be read"), Ssh("board").open(tmp_path / "none.pyz"):
        pytest.fail("the link opened")


@pytest.mark.parametrize(
    ("stderr", "words"),
    [
        ("ssh: connect to host orin port 22: No route to host", "there is no route to orin; see that the board is on"),
        ("ssh: connect to host orin port 22: Network is unreachable", "there is no route to orin"),
        ("ssh: connect to host orin port 22: Connection timed out", "orin did not answer in time"),
        ("Timeout, server orin not responding.", "orin did not answer in time"),
        ("Unable to negotiate with 10.0.0.7: no matching key exchange method found.", "share no method"),
        ("something new", "try `ssh orin` by hand (something new)"),
        ("", "the connection to orin failed; try `ssh orin` by hand"),
    ],
)
def test_the_clients_own_failures_are_explained(stderr, words):
    assert words in explain(Ssh("orin"), 255, stderr)


def test_long_and_odd_words_are_folded_and_cut():
    told = explain(Ssh("orin"), 3, "\x1b]0;title\x07" + "x" * 5000 + "\r\nthe end\n")
    assert told.endswith("the end)")
    assert len(told) < 900
    assert told.isprintable()


def test_a_killed_client_is_named():
    assert "killed by signal 9" in explain(Ssh("orin"), -9, "")
    killed = (
        "the agent on orin was killed by signal 9; see whether the board ran out of memory, then repeat the command"
    )
    assert explain(Ssh("orin"), 137, "") == killed
