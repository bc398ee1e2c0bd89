"""A connection that is lost in the middle of an evaluation is made anew, and nothing is asked or counted twice."""

import os
import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from robustdeploy.devices import connection
from robustdeploy.devices.board import Board, board_from
from robustdeploy.devices.build import build_engine
from robustdeploy.devices.link import Pipe
from robustdeploy.devices.local import Local
from robustdeploy.errors import BoardError
from robustdeploy.onboard.types import Threat

THREAT = Threat(eps=16 / 255)


@dataclass
class Unsteady:
    """A link to an agent on this machine; it remembers its agents, and may be down or lead to another board."""

    inner: Local = field(default_factory=Local)
    opened: int = 0
    down: int = 0
    """How many attempts to open it fail from now on."""

    @contextmanager
    def open(self, agent):
        if self.down:
            self.down -= 1
            raise BoardError("the board is switched off")
        self.opened += 1
        with self.inner.open(agent) as pipe:
            yield Pipe(pipe.reader, pipe.writer, pipe.where, pipe.failure)


@pytest.fixture
def link():
    return Unsteady()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(connection, "_PAUSES_S", (0.0, 0.0, 0.0))


@pytest.fixture
def said():
    return []


@pytest.fixture
def board(link, agent, said, net, tmp_path):
    with board_from(link, agent, 20, say=said.append) as board:
        compiled = board.compile("onnxruntime", board.put(net))
        board.fetch(compiled.files, tmp_path / "engine")
        board.send(tmp_path / "engine", compiled.files)
        board.open_engine("onnxruntime", compiled.files)
        yield board


def agents():
    here = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    pids = [int(pid) for path in here for pid in path.read_text().split()]
    return [pid for pid in pids if b"agent.pyz" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def kill_agent():
    (pid,) = agents()
    os.kill(pid, signal.SIGKILL)


def labels(images):
    return np.zeros(len(images), np.int64)


def test_scores_are_the_same_after_a_kill_and_the_loss_is_told(board, images, link, said):
    before = board.score(images)
    kill_agent()
    assert np.array_equal(board.score(images), before)
    assert link.opened == 2
    assert len(said) == 1
    assert said[0].startswith("note: the connection was lost: this machine: the agent is gone")
    assert len(agents()) == 1


def test_an_attack_that_was_cut_is_done_again_and_counts_its_queries_once(board, images):
    ask = ("square", {"queries": 20}, THREAT, 7, images, labels(images), np.arange(len(images)))
    first = board.attack(*ask)
    kill_agent()
    killed = []

    def at_progress(total):
        if not killed:
            killed.append(total)
            kill_agent()

    again = board.attack(*ask, progress=at_progress)
    assert np.array_equal(again.images, first.images)
    assert np.array_equal(again.queries, first.queries)
    # The agent that answered last agrees with the host on how often its engine was asked.
    assert board.queries_total == int(first.queries.sum())


def test_a_window_of_latency_is_taken_anew(board, images):
    kill_agent()
    plan = {"min_s": 0.02, "max_s": 1.0, "min_samples": 10, "warmup_s": 0.0, "batch": 1}
    assert len(board.time(plan, images).samples_ns) >= 10


def test_a_board_that_is_off_for_a_while_is_waited_for(board, images, link):
    before = board.score(images)
    kill_agent()
    link.down = 2
    assert np.array_equal(board.score(images), before)


def test_a_board_that_stays_away_ends_with_both_reasons_and_the_fix(board, images, link):
    kill_agent()
    link.down = 99
    with pytest.raises(BoardError, match=r"agent is gone.*anew fails: the board is switched off; repeat the command"):
        board.score(images)
    assert agents() == []
    link.down = 0


def test_a_request_that_ends_the_agent_each_time_is_given_up(board, images, monkeypatch, link):
    ask = board._scored

    def fatal(*given):
        kill_agent()
        return ask(*given)

    monkeypatch.setattr(board, "_scored", fatal)
    with pytest.raises(BoardError, match="so it went 3 times at the same request"):
        board.score(images)
    assert link.opened == 3


def test_another_board_behind_the_same_link_is_refused(board, images, link, tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec setarch i686 "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    kill_agent()
    link.inner = Local(python=str(python))
    with pytest.raises(BoardError, match=r"another board answers now: its machine is 'i686' and was"):
        board.score(images)


def test_an_answer_that_cannot_be_true_is_no_lost_connection(board, images, link, said):
    board._classes = 7
    with pytest.raises(BoardError, match="cannot be right"):
        board.score(images)
    assert (link.opened, said) == (1, [])


def test_an_agent_that_is_lost_before_it_says_hello_is_started_again(link, agent, said, monkeypatch):
    hello, killed = Board.hello, []

    def cut(board):
        if not killed:
            killed.append(1)
            kill_agent()
        return hello(board)

    monkeypatch.setattr(Board, "hello", cut)
    with board_from(link, agent, 20, say=said.append) as board:
        assert board.facts["machine"]
    assert (link.opened, len(said)) == (2, 1)


def test_without_a_word_for_it_nothing_is_made_anew(link, agent, images, net):
    with board_from(link, agent, 20) as board:
        compiled = board.compile("onnxruntime", board.put(net))
        board.open_engine("onnxruntime", compiled.files)
        kill_agent()
        with pytest.raises(BoardError, match="agent is gone"):
            board.score(images)
    assert link.opened == 1


@pytest.mark.parametrize("at", ["sending net.onnx (KiB)", "compiling", "fetching the engine (KiB)"])
def test_an_engine_is_built_although_the_agent_is_killed_meanwhile(link, agent, said, net, tmp_path, at, host_target):
    killed = []

    def progress(what, done, total):
        if what == at and not killed:
            killed.append(what)
            kill_agent()

    folder = tmp_path / "built"
    with board_from(link, agent, 20, say=said.append) as board:
        built = build_engine(board, host_target, net, agent, folder, progress)
    assert [path.name for path in folder.iterdir()] == [built.files[0].name]
    assert killed == [at]
    assert link.opened == 2 if at == "compiling" else link.opened in (1, 2)


@pytest.fixture
def host_target():
    from robustdeploy.core.load import load_target

    return load_target("host-cpu")
