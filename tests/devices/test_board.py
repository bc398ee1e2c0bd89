import os
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from robustdeploy import errors
from robustdeploy.core.release import RELEASE
from robustdeploy.devices.board import Board, board_from
from robustdeploy.devices.link import Pipe
from robustdeploy.devices.local import Local
from robustdeploy.errors import ArtifactError, BoardError, StorageError, UsageError, WireError
from robustdeploy.onboard.attacks.square import Square
from robustdeploy.onboard.draws import Draws
from robustdeploy.onboard.timing import SPLITS
from robustdeploy.onboard.types import Threat, pixels_from_bytes
from robustdeploy.onboard.wire import write_message

THREAT = Threat(eps=16 / 255)
BACKENDS = ("null", "onnxruntime")


@pytest.fixture
def board(agent):
    with board_from(Local(), agent, deadline_s=20) as board:
        yield board


def opened(board, net, backend="onnxruntime"):
    compiled = board.compile(backend, board.put(net))
    board.open_engine(backend, compiled.files)
    return compiled


def agent_pid(board):
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    return next(int(pid) for pid in children if b"agent.pyz" in Path(f"/proc/{pid}/cmdline").read_bytes())


def listed(**changed):
    """A request to open one file, which the board does not have."""
    return {"backend": "null", "files": [{"name": "engine.json", "sha256": "0" * 64, "bytes": 7, **changed}]}


def test_a_board_says_what_it_is(board):
    assert board.facts["agent"] == RELEASE
    assert board.facts["numpy"] == np.__version__
    assert set(BACKENDS) <= set(board.facts["backends"])
    assert board.sensors()["boot_id"] == board.facts["boot_id"] != ""
    assert board.probe("null").usable
    assert board.probe("onnxruntime").version


def test_scores_are_those_of_the_net_whatever_the_batches(board, net, images, weights):
    compiled = opened(board, net)
    assert compiled.bytes == net.stat().st_size
    board.batch_bytes = 7 * images[0].nbytes
    expected = pixels_from_bytes(images).reshape(len(images), -1) @ weights
    np.testing.assert_allclose(board.score(images), expected, atol=1e-4)
    assert board.queries_total == len(images)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_attack_on_the_board_is_the_attack_on_the_host(board, net, images, backend, tmp_path):
    from robustdeploy.onboard.backends import null, onnxruntime

    opened(board, net, backend)
    labels = board.score(images).argmax(1)
    before, ids = board.queries_total, np.arange(len(images)) + 50
    board.batch_bytes = 11 * images[0].nbytes
    said = board.attack("square", {"queries": 30, "batch": 5}, THREAT, 2**63 + 5, images, labels, ids)
    found, queries = said.images, said.queries
    assert board.queries_total - before == queries.sum()
    assert queries.max() == 30
    up_to_10, up_to_30 = said.spent_ns[:, 0], said.spent_ns[:, 1]
    assert (up_to_10 > 0).all()
    assert ((up_to_30 > up_to_10) == (queries > 10)).all()
    assert (said.spent_ns[:, 1:] == up_to_30[:, None]).all()
    tool = {"null": null.plugin, "onnxruntime": onnxruntime.plugin}[backend]()
    (tmp_path / "engine").mkdir()
    tool.compile(net, tmp_path / "engine")
    with tool.open(tmp_path / "engine") as model:
        here = Square(queries=30, batch=5)(model, images, labels, THREAT, Draws(2**63 + 5, ids))
    if backend == "null":
        np.testing.assert_array_equal(found, here)
    low, high = THREAT.box(images)
    assert ((low <= found) & (found <= high)).all()
    assert 0 < (board.score(found).argmax(1) == labels).mean() < 1


def test_timing_comes_with_samples_sensors_and_a_check_of_the_scores(board, net, images):
    opened(board, net)
    plan = {"batch": 2, "warmup_s": 0.01, "min_s": 0.05, "max_s": 5, "min_samples": 700}
    before = board.queries_total
    window = board.time(plan, images)
    assert len(window.samples_ns) >= 700
    assert 0 < np.median(window.empty_ns) < np.median(window.samples_ns)
    np.testing.assert_array_equal(window.scores_before, window.scores_after)
    assert window.scores_before.shape == (30, 5)
    assert window.before["boot_id"] == window.after["boot_id"]
    assert board.queries_total - before == 2 * (window.warmup_runs + len(window.samples_ns)) + 2 * 30
    with pytest.raises(UsageError, match="needs as many images"):
        board.time({**plan, "batch": 31}, images)
    with pytest.raises(UsageError, match="plan"):
        board.time({"surprise": 1}, images)


def test_what_the_board_has_is_not_sent_again(board, net):
    sha256 = board.put(net)
    asked = []
    call = board._agent.call
    board._agent.call = lambda op, *rest, **more: asked.append(op) or call(op, *rest, **more)
    assert board.put(net) == sha256
    assert asked == ["have"]


def test_a_large_file_comes_in_pieces(board, tmp_path):
    (tmp_path / "large.bin").write_bytes(os.urandom((17 << 20) + 3))
    board.put(tmp_path / "large.bin")


@pytest.mark.parametrize(
    ("ask", "kind", "words"),
    [
        (lambda b, x: b.score(x), UsageError, "no engine is open"),
        (lambda b, x: b.score(x.astype(np.float32)), UsageError, "takes uint8 images"),
        (lambda b, x: b.probe("cuda-magic"), UsageError, "it has: ncnn, null, onnxruntime"),
        (lambda b, x: b.probe("../wire"), UsageError, "no backend"),
        (lambda b, x: b.probe("onnxruntime", {"thread": 1}), UsageError, "no option 'thread'"),
        (lambda b, x: b.probe("onnxruntime", {"threads": -1}), UsageError, "refused: onnxruntime needs threads"),
        (lambda b, x: b.compile("null", "0" * 64), ArtifactError, "has no file"),
        (
            lambda b, x: b._agent.call("open", {"backend": "null", "files": "/etc"}),
            UsageError,
            "list of its files",
        ),
        (lambda b, x: b._agent.call("open", listed(sha256="/etc/passwd")), UsageError, "not a SHA-256"),
        (lambda b, x: b._agent.call("open", listed(name="../agent.pyz")), UsageError, "not a plain file name"),
        (lambda b, x: b._agent.call("open", listed(name="a", mode="0777")), UsageError, "refused: .*'mode'"),
        (lambda b, x: b._agent.call("open", listed(bytes=0)), UsageError, "must have 1 to"),
        (lambda b, x: b._agent.call("open", listed()), ArtifactError, "has no file"),
        (lambda b, x: b._agent.call("get", {"sha256": "0" * 64, "offset": 0}), ArtifactError, "has no file"),
        (lambda b, x: b._agent.call("get", {"sha256": "../lock", "offset": 0}), UsageError, "not a SHA-256"),
        (lambda b, x: b._agent.call("explode", {}), UsageError, "no operation 'explode'"),
        (lambda b, x: b._agent.call("probe", {}), UsageError, "lacks 'backend'"),
        (lambda b, x: b._agent.call("score", {}, {"images": x[0]}), UsageError, "4 dimensions"),
        (lambda b, x: b._agent.call("score", {"x": float("inf")}, {}), WireError, "plain JSON"),
    ],
)
def test_a_refusal_keeps_its_class_and_says_why(board, images, ask, kind, words):
    with pytest.raises(kind, match=words) as caught:
        ask(board, images)
    assert type(caught.value) is kind
    if kind is not WireError:
        assert board.hello()["agent"]


def test_a_file_that_is_no_net_is_told_by_its_name(board, tmp_path):
    (tmp_path / "holiday.onnx").write_bytes(b"photo")
    with pytest.raises(ArtifactError, match=r"cannot load holiday\.onnx"):
        board.compile("onnxruntime", board.put(tmp_path / "holiday.onnx"))
    assert board.hello()["agent"]


def test_an_engine_that_was_changed_on_the_board_is_not_loaded(agent, net, tmp_path, images):
    with board_from(Local(workdir=str(tmp_path)), agent) as board:
        engine = board.compile("null", board.put(net)).files
        board.open_engine("null", engine)
        file = tmp_path / engine[0].sha256
        file.write_bytes(file.read_bytes().replace(b"10", b"11"))
        with pytest.raises(ArtifactError, match="it was changed"):
            board.open_engine("null", engine)
        with pytest.raises(UsageError, match="no engine is open"):
            board.score(images)


def test_a_full_board_is_told_with_the_fix_and_keeps_nothing_half(agent, net, small_disk, tmp_path):
    (tmp_path / "large.onnx").write_bytes(bytes(100_000))
    with board_from(Local(workdir=str(small_disk)), agent) as board:
        with pytest.raises(StorageError, match=r"put: no space left .*\(0 MiB free there\); make room") as caught:
            board.put(tmp_path / "large.onnx")
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 4
        assert list(small_disk.iterdir()) == []
        onnx = board.put(net)
        (small_disk / "filler").write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096))
        with pytest.raises(StorageError, match="compile: no space left"):
            board.compile("null", onnx)
        assert sorted(path.name for path in small_disk.iterdir()) == sorted([onnx, "filler"])
        (small_disk / "filler").unlink()
        assert board.compile("null", onnx).files


def long_attack(board, images):
    """Attack for longer than any test waits."""
    labels = board.score(images).argmax(1)
    many = np.repeat(images, 20, 0)
    return board.attack(
        "square", {"queries": 10**8}, Threat(eps=1 / 255), 1, many, np.repeat(labels, 20), np.arange(len(many))
    )


def later(act, seconds=0.4):
    timer = threading.Timer(seconds, act)
    timer.start()
    return timer


def test_an_agent_killed_in_the_middle_of_an_attack_is_told(agent, net, images):
    with board_from(Local(), agent, deadline_s=20) as board:
        opened(board, net, "null")
        pid = agent_pid(board)
        timer = later(lambda: os.kill(pid, signal.SIGKILL))
        with pytest.raises(BoardError, match="killed by SIGKILL"):
            long_attack(board, images)
        timer.join()
        with pytest.raises(BoardError, match="failed before"):
            board.hello()


def test_a_frozen_agent_meets_the_deadline_and_is_removed(agent, net, images):
    with board_from(Local(), agent, deadline_s=1.5) as board:
        opened(board, net, "null")
        pid = agent_pid(board)
        timer = later(lambda: os.kill(pid, signal.SIGSTOP))
        began = time.monotonic()
        with pytest.raises(BoardError, match=r"no answer for 1\.5 s"):
            long_attack(board, images)
        timer.join()
        assert 1.5 <= time.monotonic() - began < 8
    assert not Path(f"/proc/{pid}").exists()


def test_a_frozen_agent_that_does_not_read_meets_the_deadline(agent, net):
    with board_from(Local(), agent, deadline_s=1) as board:
        opened(board, net, "null")
        os.kill(agent_pid(board), signal.SIGSTOP)
        with pytest.raises(BoardError, match="no answer for 1 s"):
            board.score(np.zeros((4, 3, 512, 512), np.uint8))


def test_a_long_attack_lives_on_signs_of_progress(agent, net, images):
    heard = []
    with board_from(Local(), agent, deadline_s=2.5) as board:
        opened(board, net, "null")
        labels = board.score(images).argmax(1)
        many = np.repeat(images, 100, 0)
        began = time.monotonic()

        def enough(queries):
            heard.append(queries)
            if time.monotonic() - began > 4:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            board.attack(
                "square",
                {"queries": 10**8},
                Threat(eps=1 / 255),
                1,
                many,
                np.repeat(labels, 100),
                np.arange(3000),
                enough,
            )
        assert heard == sorted(set(heard))
        assert len(heard) >= 3
        with pytest.raises(BoardError, match="interrupted"):
            board.hello()


@contextmanager
def fake_pipe(answer):
    """A peer that answers each request with the bytes ``answer``."""
    to_host, from_peer = os.pipe()
    to_peer, from_host = os.pipe()
    reader, writer = os.fdopen(to_host, "rb"), os.fdopen(from_host, "wb", buffering=0)
    os.write(from_peer, answer)
    os.close(from_peer)
    with reader, writer:
        yield Pipe(reader, writer, "a strange board", lambda: "it said nothing")
    os.close(to_peer)


def framed(head):
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as stream:
        write_message(stream, head)
    with os.fdopen(reader, "rb") as stream:
        return stream.read()


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (framed({"agent": "9.9", "protocol": 1}), BoardError, r"version 9\.9 .* starts the agent that it is given"),
        (framed({"error": {"kind": "SystemExit", "message": "m"}}), BoardError, "a strange board: m"),
        (framed({"error": {"kind": "Interrupted", "message": "m"}}), BoardError, "a strange board: m"),
        (framed({"error": "text"}), BoardError, "a strange board: text"),
        (framed({"error": {"kind": "StorageError", "message": "m"}}), errors.StorageError, "a strange board: m"),
        (b"Last login: Mon\n", WireError, "login script"),
        (framed({})[:-1], WireError, "breaks off"),
        (b"", BoardError, "the agent is gone: it said nothing"),
    ],
)
def test_a_strange_board_is_told(answer, kind, words):
    with fake_pipe(answer) as pipe, pytest.raises(kind, match=words) as caught:
        Board(pipe, deadline_s=2).hello()
    assert type(caught.value) is kind


def test_a_toolchain_that_prints_does_not_disturb_the_pipe(agent, net, images, tmp_path):
    from robustdeploy.export.agent import build_agent

    loud = tmp_path / "loud.py"
    loud.write_text(
        "import os, subprocess, sys\nfrom dataclasses import dataclass\nfrom ..types import Probe\n\n"
        "@dataclass(frozen=True)\nclass Loud:\n    def probe(self):\n"
        "        print('print')\n        os.write(1, b'raw')\n        subprocess.run(['echo', 'child'])\n"
        "        return Probe(True, repr(sys.stdin.read()))\n\nplugin = Loud\n"
    )
    build_agent(tmp_path / "agent.pyz", {"backends/loud": loud})
    with board_from(Local(), tmp_path / "agent.pyz", deadline_s=10) as board:
        assert board.probe("loud").version == "''"
        assert board.hello()["agent"]
        assert "print" in board.pipe.failure()


PARTED = """
from dataclasses import dataclass

from . import null


class Parted:
    def __init__(self, model):
        self.model = model

    def __call__(self, images):
        return self.model(images)

    def split(self, images):
        self.model(images)
        return {"host_to_device": 10 * len(images), "compute": 200, "device_to_host": 3}


@dataclass(frozen=True)
class Telling(null.Null):
    def open(self, engine):
        from contextlib import contextmanager

        @contextmanager
        def opened():
            with null.Null.open(self, engine) as model:
                yield Parted(model)

        return opened()


plugin = Telling
"""


def test_a_toolchain_may_tell_the_parts_of_a_call(net, images, tmp_path):
    from robustdeploy.export.agent import build_agent

    (tmp_path / "parted.py").write_text(PARTED)
    build_agent(tmp_path / "agent.pyz", {"backends/parted": tmp_path / "parted.py"})
    with board_from(Local(), tmp_path / "agent.pyz", deadline_s=20) as board:
        files = board.compile("parted", board.put(net)).files
        board.open_engine("parted", files)
        before = board.queries_total
        run = board.run("parted", files, {}, {**TIMED, "batch": 2}, images)
        medians = {name: float(np.median(taken)) for name, taken in run.window.parts_ns.items()}
        assert medians == {"host_to_device": 20, "compute": 200, "device_to_host": 3}
        calls = run.window.warmup_runs + len(run.window.samples_ns) + SPLITS
        assert board.queries_total - before == 2 * calls + 2 * 30


TIMED = {"batch": 1, "warmup_s": 0.01, "min_s": 0.05, "max_s": 5, "min_samples": 100}


def test_a_run_is_a_process_of_its_own_and_the_open_engine_answers_after_it(board, net, images):
    files = opened(board, net).files
    before, pid = board.score(images), agent_pid(board)
    runs = [board.run("onnxruntime", files, {"threads": 1}, TIMED, images) for _ in range(2)]
    assert np.array_equal(board.score(images), before)
    for run in runs:
        assert run.window.first_ns > np.median(run.window.samples_ns)
        assert run.load_ns > 10_000_000, "a toolchain that was loaded before takes no time"
        assert 20 << 20 < run.window.peak_memory_bytes < 1 << 30
        assert len(run.telemetry.values) >= 2
    assert not Path(f"/proc/{pid}/task/{pid}/children").read_text().split(), "it is gone when it has answered"


def test_an_engine_that_does_not_open_in_its_own_process_says_why(board, net, images):
    files = opened(board, net).files
    with pytest.raises(UsageError, match="no option 'thread'"):
        board.run("onnxruntime", files, {"thread": 1}, TIMED, images)
    assert board.score(images).shape == (30, 5), "the agent goes on"


def test_a_run_whose_process_is_killed_is_told_and_the_agent_goes_on(board, net, images):
    files = opened(board, net).files
    pid = agent_pid(board)

    def kill():
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)

    timer = later(kill, 1.5)
    with pytest.raises(BoardError, match="the run's own process was killed by SIGKILL"):
        board.run("onnxruntime", files, {}, {**TIMED, "min_s": 30, "max_s": 30}, images)
    timer.join()
    assert board.score(images).shape == (30, 5)


def test_a_paced_run_waits_for_its_images(board, net, images):
    files = opened(board, net, "null").files
    run = board.run("null", files, {}, {**TIMED, "period_ns": 5_000_000, "min_samples": 20}, images)
    assert (run.window.starts_ns >= 5_000_000 * np.arange(len(run.window.starts_ns))).all()
    assert run.window.period_ns == 5_000_000


def test_engines_take_turns_on_the_board_and_every_query_is_counted(board, net, images):
    files = board.compile("onnxruntime", board.put(net)).files
    quickest = board.turns("onnxruntime", [files, files, files], {}, images[:1], turns=3, turn_s=0.002)
    assert quickest.shape == (3, 3)
    assert (quickest > 0).all()
    assert board.queries_total >= 2 * 9
    # None of them is left open.
    with pytest.raises(UsageError, match="no engine is open"):
        board.score(images[:1])
