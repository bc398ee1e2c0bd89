"""The runner: each stage once, in order, resumed, sealed, and never on what is not there any more."""

import json
from dataclasses import replace

import pytest

from robustdeploy.core.callback import Callback
from robustdeploy.core.files import sha256_of_file
from robustdeploy.engine.manifest import read_manifest
from robustdeploy.engine.runner import Runner, working
from robustdeploy.engine.stage import in_order
from robustdeploy.engine.verify import verify_run
from robustdeploy.errors import ArtifactError, Interrupted, UsageError


@pytest.fixture
def net(add):
    return add("nets/pruned", 1)


@pytest.fixture
def onnx(add, net):
    return add("onnx/pruned/fp32", 10, (net,), name="export")


@pytest.fixture
def board(add, onnx, net):
    return add("boards/pruned/fp32@quick", 100, (net, onnx), name="measure")


def make(run, goal, makes=("add", "export", "measure"), **more):
    with working(run):
        return Runner(run, makes, **more).make(goal)


def total(run, place):
    return (run.root / place / "sum").read_text()


def test_what_a_stage_needs_is_made_first_and_once(engine_run, net, onnx, board):
    assert [stage.place for stage in in_order([board, onnx])] == [net.place, onnx.place, board.place]
    done = make(engine_run, board)
    assert (done.record.total, total(engine_run, board.place)) == (112, "112")
    assert [len(stage.ran) for stage in (net, onnx, board)] == [1, 1, 1]
    assert [r.data["folder"] for r in engine_run.ledger.records() if r.event == "sealed"] == [
        net.place,
        onnx.place,
        board.place,
    ]
    manifest = read_manifest(engine_run.root / board.place)
    assert set(manifest.inputs) == {"nets/pruned/sum", "onnx/pruned/fp32/sum"}
    assert verify_run(engine_run.root) == []


def test_what_is_done_and_unchanged_is_skipped(engine_run, net, onnx, board):
    make(engine_run, board)
    assert make(engine_run, board).record.total == 112
    assert [len(stage.ran) for stage in (net, onnx, board)] == [1, 1, 1]


def test_another_setting_makes_that_stage_and_what_rests_on_it_again(engine_run, net, onnx, board, add):
    make(engine_run, board)
    other = replace(onnx, value=20, ran=[])
    last = replace(board, before=(net, other), ran=[])
    assert make(engine_run, last).record.total == 122
    assert (len(net.ran), len(other.ran), len(last.ran)) == (1, 1, 1)


def test_another_file_that_is_read_makes_it_again(engine_run, add):
    first = add("nets/pruned", 1, read=(("images", "a" * 64),))
    make(engine_run, first)
    same, other = replace(first, ran=[]), replace(first, read=(("images", "b" * 64),), ran=[])
    make(engine_run, same)
    make(engine_run, other)
    assert (len(same.ran), len(other.ran)) == (0, 1)


def test_force_makes_again_what_may_be_made_and_nothing_else(engine_run, net, onnx, board):
    make(engine_run, board)
    make(engine_run, board, ("export", "measure"), force=True)
    assert [len(stage.ran) for stage in (net, onnx, board)] == [1, 2, 2]
    assert onnx.ran[1] == []  # what was there was cleared


def test_an_interrupted_stage_goes_on_with_what_it_left(engine_run, net):
    broken = replace(net, fails=RuntimeError("stop"), ran=[])
    with pytest.raises(RuntimeError):
        make(engine_run, broken)
    assert not (engine_run.root / net.place / "manifest.json").exists()
    make(engine_run, net)
    assert net.ran == [["half"]]


@pytest.mark.parametrize(("error", "kind"), [(RuntimeError("no"), "failed"), (Interrupted(15), "interrupted")])
def test_listeners_hear_what_became_of_each_stage(engine_run, net, onnx, error, kind):
    heard = []

    class Heard(Callback):
        def event(self, event):
            heard.append((event.kind, event.place))

    make(engine_run, net, callback=Heard())
    with pytest.raises(type(error)):
        make(engine_run, replace(onnx, fails=error), callback=Heard())
    make(engine_run, onnx, callback=Heard())
    assert heard == [
        ("begun", net.place),
        ("sealed", net.place),
        ("skipped", net.place),
        ("begun", onnx.place),
        (kind, onnx.place),
        ("skipped", net.place),
        ("resumed", onnx.place),
        ("sealed", onnx.place),
    ]


def test_what_may_not_be_made_must_be_there(engine_run, board):
    with pytest.raises(UsageError, match=r"has no finished nets/pruned stage yet: run `robustdeploy prune"):
        make(engine_run, board, ("measure",))


def test_what_may_not_be_made_must_be_up_to_date(engine_run, net, onnx, board):
    make(engine_run, onnx)
    make(engine_run, replace(net, value=2, ran=[]))
    with pytest.raises(
        ArtifactError, match=r"onnx/pruned/fp32 is out of date: it was made from another nets/pruned/sum"
    ):
        make(engine_run, board, ("measure",))


def test_a_record_that_was_edited_is_refused_by_its_field(engine_run, net, onnx):
    make(engine_run, net)
    path = engine_run.root / net.place / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["facts"] = {"total": "many"}
    path.write_text(json.dumps(manifest))
    engine_run.ledger.append("unsealed", folder=net.place)
    engine_run.ledger.append("sealed", stage="add", folder=net.place, manifest=sha256_of_file(path))
    with pytest.raises(ArtifactError, match=r"facts\.total .*so it was edited; `robustdeploy prune .* --force`"):
        make(engine_run, onnx, ("export",))


def test_a_device_is_looked_at_only_when_its_stage_is_needed_for_something_to_do(engine_run, net, tied, add):
    engine = tied("engines/pruned/fp32@quick", 10, (net,), name="compile")
    board = add("boards/pruned/fp32@quick", 100, (engine,), name="measure")
    makes = ("add", "compile", "measure")
    make(engine_run, board, makes)
    assert engine.looked == [11]
    make(engine_run, board, makes)
    assert engine.looked == [11]  # all is done: no board is asked


def test_a_stage_for_another_device_is_made_again_before_it_is_used(engine_run, net, tied, add):
    engine = tied("engines/pruned/fp32@quick", 10, (net,), name="compile")
    board = add("boards/pruned/fp32@quick", 100, (engine,), name="measure")
    makes = ("add", "compile", "measure")
    make(engine_run, engine, makes)
    moved = replace(engine, device=["b"], ran=[])
    make(engine_run, replace(board, before=(moved,)), makes)
    assert len(moved.ran) == 1
    assert verify_run(engine_run.root) == []
