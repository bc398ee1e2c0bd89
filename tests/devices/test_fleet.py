"""Several boards of one target: real agents that share the work, one of which may be gone for good at any moment."""

import random
import shutil
import threading
import time
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest

from robustdeploy.core.target import Target
from robustdeploy.devices import connection
from robustdeploy.devices.fleet import fleet_of
from robustdeploy.errors import BoardError, BoardLostError, ToolchainError
from robustdeploy.onboard.types import Threat

THREAT = Threat(eps=16 / 255)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(connection, "_PAUSES_S", (0.0, 0.0))


def several(*links, **fields):
    return Target(name="several", link=list(links), **{"emulated": True, **fields})


@pytest.fixture
def said():
    return []


@pytest.fixture
def opened(agent, net, tmp_path, said):
    """Give the boards of a target, each with the engine of the tests' net."""

    @contextmanager
    def ready(target):
        with fleet_of(target, agent, said.append, 20) as fleet:

            def build(board):
                compiled = board.compile("onnxruntime", board.put(net))
                board.fetch(compiled.files, tmp_path / "engine")
                return compiled.files

            files = fleet.first(build)
            fleet.each(lambda board: board.send(tmp_path / "engine", files))
            fleet.each(lambda board: board.open_engine("onnxruntime", files))
            yield fleet

    return ready


def attacked(images, key, board):
    labels = np.zeros(len(images), np.int64)
    said = board.attack("square", {"queries": 20}, THREAT, key, images, labels, np.arange(len(images)))
    return said.images, said.queries


def same(one, other):
    return all(np.array_equal(a, b) for pair in zip(one, other, strict=True) for a, b in zip(*pair, strict=True))


def test_jobs_are_shared_out_and_the_result_is_that_of_one_board(opened, boards, images, said):
    jobs = [partial(attacked, images, key) for key in range(12)]
    heard = []
    with opened(Target(name="one")) as fleet:
        alone = fleet.share(jobs, heard.append)
        assert (fleet.name_of(fleet.boards[0]), fleet.deeds()) == ("this machine", {})
        scored = fleet.boards[0].scored
    assert heard == list(range(1, 13))
    heard.clear()
    with opened(several(*map(boards.link, ("a", "b", "c")))) as fleet:
        assert same(fleet.share(jobs, heard.append), alone)
        deeds = fleet.deeds()["boards"]
    assert heard == list(range(1, 13))
    assert [each["board"] for each in deeds] == [f"this machine, board {number} of 3" for number in (1, 2, 3)]
    assert sum(each["blocks"] for each in deeds) == 12
    assert all(each["blocks"] for each in deeds)
    # What each board and the host count agrees, and together they have scored what one alone does.
    assert sum(each["images_scored"] for each in deeds) == scored
    assert said == []


@pytest.mark.parametrize("seed", range(3))
def test_boards_that_go_for_good_at_random_moments_change_nothing(opened, boards, images, said, seed):
    chance = random.Random(seed)
    jobs = [partial(attacked, images, key) for key in range(18)]
    with opened(Target(name="one")) as fleet:
        began = time.monotonic()
        alone = fleet.share(jobs, lambda done: None)
        took = time.monotonic() - began
    gone = chance.sample(("a", "b", "c"), 2)
    with opened(several(*map(boards.link, ("a", "b", "c")))) as fleet:
        timers = [threading.Timer(chance.uniform(0, took / 3), boards.lose, (name,)) for name in gone]
        for timer in timers:
            timer.start()
        heard = []
        shared = fleet.share(jobs, heard.append)
        for timer in timers:
            timer.join()
        rest = fleet.share(jobs, lambda done: None)
        deeds = fleet.deeds()["boards"]
    assert same(shared, alone)
    assert same(rest, alone)
    assert heard == list(range(1, 19))
    assert sum(each["blocks"] for each in deeds) == 36
    lost = [each for each in deeds if each["lost"]]
    assert len(lost) == 2
    assert len([line for line in said if "is lost: " in line]) == 2
    assert all(line.endswith("; the others do its work") for line in said if "is lost: " in line)


def test_when_none_is_left_the_last_ones_reason_is_raised(opened, boards, images):
    def losing(name, board):
        boards.lose(name)
        return attacked(images, 1, board)

    with opened(several(*map(boards.link, ("a", "b")))) as fleet:
        boards.lose("a")
        with pytest.raises(BoardLostError, match=r"connecting anew fails: .*; repeat the command once it answers, and"):
            fleet.share([partial(losing, "b")] * 2, lambda done: None)
        assert fleet.is_broken


def test_what_is_asked_of_the_first_board_goes_to_the_next_when_it_is_lost(opened, boards, images):
    with opened(several(*map(boards.link, ("a", "b")))) as fleet:
        before = fleet.first(lambda board: board.score(images))
        boards.lose("a")
        assert np.array_equal(fleet.first(lambda board: board.score(images)), before)
        assert fleet.name_of(fleet.boards[0]) == "this machine, board 2 of 2"


def test_a_job_that_fails_ends_all_and_an_answer_that_cannot_be_is_no_loss(opened, boards, images):
    done = []

    def job(number, board):
        if number == 3:
            raise board._agent.impossible("score", "scores", "are a lie")
        done.append(number)
        return board.score(images)

    with opened(several(*map(boards.link, ("a", "b")))) as fleet:
        with pytest.raises(BoardError, match="'scores' are a lie"):
            fleet.share([partial(job, number) for number in range(100)], lambda done: None)
        assert len(done) < 100


def test_a_board_that_is_not_there_is_told_and_the_others_work(opened, boards, images, said):
    links = [boards.link(name) for name in ("a", "b")]
    (boards.folder / "a").unlink()
    with opened(several(*links)) as fleet:
        assert len(fleet.share([partial(attacked, images, 1)], lambda done: None)) == 1
    assert len(said) == 1
    assert said[0].startswith("note: board 1 of 2 is not there: the agent cannot be started with ")
    (boards.folder / "b").unlink()
    with pytest.raises(BoardError, match=r"the agent cannot be started with .*/a"), opened(several(*links)):
        pytest.fail("no board is there")


def test_two_links_to_one_machine_are_refused_unless_it_is_emulated(opened, boards):
    links = [boards.link(name) for name in ("a", "b")]
    with (
        pytest.raises(BoardError, match=r"board 2 of 2 and this machine, board 1 of 2 are one machine, by its boot id"),
        opened(several(*links, emulated=False)),
    ):
        pytest.fail("they were taken")
    apart = [boards.link(name, machine=f"boot-{name}") for name in ("a", "b")]
    with opened(several(*apart, emulated=False)) as fleet:
        assert len(fleet.boards) == 2


@pytest.mark.skipif(shutil.which("setarch") is None, reason="no program here makes this machine look like another")
def test_a_board_of_another_kind_is_refused(opened, boards):
    links = [boards.link("a"), boards.link("b", "setarch", "i686")]
    with pytest.raises(BoardError) as refused, opened(several(*links)):
        pytest.fail("they were taken")
    assert str(refused.value).startswith("this machine, board 2 of 2 differs from this machine, board 1 of 2: its ")
    assert "'i686'" in str(refused.value)


@pytest.mark.parametrize("other", [{"SPLIT_VERSION": "1.1"}, {"SPLIT_FLAVOUR": "sweet"}])
def test_a_board_of_another_toolchain_is_refused(boards, split_agent, split, other):
    links = [boards.link("a"), boards.link("b", **other)]
    target = several(*links, backend={"name": "split"})
    value = next(iter(other.values()))
    told = f"board 2 of 2 differs .* is '{value}', there it is"
    with pytest.raises(BoardError, match=told), fleet_of(target, split_agent, print, 20):
        pytest.fail("they were taken")


def test_a_board_without_the_toolchain_is_refused_with_the_fix(boards, split_agent, split):
    target = several(*map(boards.link, ("a", "b")), backend={"name": "tensorrt"})
    with pytest.raises(ToolchainError, match="tensorrt is not usable"), fleet_of(target, split_agent, print, 20):
        pytest.fail("they were taken")
