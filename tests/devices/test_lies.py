"""A board is not believed: each lie of `lies.py`, told by a real agent, ends in one sentence that names the field."""

import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from lies import FORMS, FORMS_TOLD, LASTING, LIES

from robustdeploy.devices.board import Board, board_from
from robustdeploy.errors import BoardError
from robustdeploy.evaluate.challenge import COUNT, challenge_diagnostic, challenge_images, challenged
from robustdeploy.onboard.types import Threat

PLAN = {"batch": 30, "warmup_s": 0.01, "min_s": 0.02, "max_s": 1, "min_samples": 50}


def session(board, net, images):
    """Everything an evaluation asks of a board."""
    assert board.probe("null").usable
    engine = board.compile("null", board.put(net)).files
    with tempfile.TemporaryDirectory() as folder:
        board.fetch(engine, Path(folder))
    board.open_engine("null", engine, classes=10)
    labels = board.score(images).argmax(1)
    options, ids = {"queries": 10}, np.arange(len(images))
    board.attack("square", options, Threat(), 1, images, labels, ids, budget=options["queries"])
    board.time(PLAN, images)
    board.run("null", engine, {}, PLAN, images)
    return board.sensors()


def told(error, lie):
    """The sentence for a lie, after all that any such sentence must be."""
    said = str(error.value)
    assert error.value.exit_code == 4
    assert lie.words in said
    assert not lie.field or f"answer to '{lie.op}' cannot be right: '{lie.field}" in said
    assert said.startswith("this machine: ")
    assert "\n" not in said
    assert len(said) < 500


def test_no_field_of_another_form_is_believed(liar, agent, net, images):
    """One agent tells them all; a new board listens to each, as the one before asks it nothing more."""
    with liar(FORMS_TOLD).open(agent) as pipe:
        board = Board(pipe, 20)
        session(board, net, images)
        (tmp := net.with_name("new.bin")).write_bytes(b"new")
        engine, ids = board.compile("null", board.put(net)).files, np.arange(len(images))
        asks = {
            "hello": lambda b: b.hello(),
            "probe": lambda b: b.probe("null"),
            "have": lambda b: b.put(net),
            "put": lambda b: b.put(tmp),
            "get": lambda b: b.fetch(engine, tmp.parent / "nothing here"),
            "compile": lambda b: b.compile("null", b.put(net)),
            "open": lambda b: b.open_engine("null", engine),
            "score": lambda b: b.score(images),
            "attack": lambda b: b.attack("square", {"queries": 2}, Threat(), 1, images, ids % 10, ids, budget=2),
            "time": lambda b: b.time(PLAN, images),
            "run": lambda b: b.run("null", engine, {}, PLAN, images),
            "sensors": lambda b: b.sensors(),
        }
        for number, lie in enumerate(FORMS):
            tmp.write_bytes(b"new %d" % number)
            board = Board(pipe, 20)
            with pytest.raises(BoardError) as error:
                asks[lie.op](board)
            told(error, lie)
            with pytest.raises(BoardError, match="cannot be asked"):
                board.sensors()
        assert Board(pipe, 20).sensors()["boot_id"], "nothing is left to lie about"


@pytest.mark.parametrize("name", LIES)
@pytest.mark.alike(40)
def test_a_lie_is_found_named_and_ends_the_session(name, liar, agent, net, images):
    lie, began = LIES[name], time.monotonic()
    patience_s = 1.5 if lie.words in ("no answer for", "feigns progress") else 20
    with board_from(liar(name), agent, patience_s) as board:
        with pytest.raises(BoardError) as error:
            session(board, net, images)
        told(error, lie)
        with pytest.raises(BoardError, match="cannot be asked"):
            board.sensors()
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("name", ["honest", "flood"])
def test_an_honest_agent_is_believed_however_much_it_prints(name, liar, agent, net, images):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with board_from(liar(name), agent, 20) as board:
        assert session(board, net, images)["boot_id"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


@pytest.mark.parametrize("name", ["honest", *LASTING])
def test_a_lie_of_the_right_form_is_found_by_images_that_nobody_has_seen(name, liar, agent, net, images):
    with liar(name).open(agent) as pipe:
        board = Board(pipe, 20)
        board.open_engine("onnxruntime", board.compile("onnxruntime", board.put(net)).files)
        board.score(images)  # it has seen these, and may answer them right
        apart = [challenged(board, net, images, 0.1) for _ in range(2)]
    if name == "honest":
        assert apart == [0, 0]
    else:
        assert min(apart) > COUNT // 2
    assert challenge_diagnostic(max(apart), 0.1).level == ("ok" if name == "honest" else "block")


def test_challenge_images_are_as_secret_as_their_number(images):
    made = challenge_images(images, 1)
    assert made.dtype == np.uint8
    assert made.shape == (COUNT, *images.shape[1:])
    assert (made == challenge_images(images, 1)).all()
    other = challenge_images(images, 2)
    assert (np.abs(made.astype(int) - other).reshape(COUNT, -1).max(1) > 10).all()
    assert not any((one == seen).all() for one in made for seen in images)
