"""The plan: what would be done, skipped or done again, each with its reason, and without a trace."""

from dataclasses import replace

import pytest

from robustdeploy.engine.plan import plan
from robustdeploy.engine.runner import Runner, working


def tree(run):
    return {p.relative_to(run.root): p.read_bytes() for p in run.root.rglob("*") if p.is_file()}


def told(run, goals, **more):
    before = tree(run)
    steps = plan(run, goals, **more)
    assert tree(run) == before
    return {step.place: (step.action, step.why) for step in steps}


@pytest.fixture
def chain(add):
    net = add("nets/pruned", 1, read=(("images", "a" * 64),))
    return net, add("onnx/pruned/fp32", 10, (net,), name="export")


def make(run, goal):
    with working(run):
        Runner(run, ("add", "export", "compile")).make(goal)


def test_a_new_run_does_everything(engine_run, chain):
    assert {what for what, _ in told(engine_run, chain).values()} == {"do"}
    (first, second) = plan(engine_run, chain[1:])
    assert (first.needs, second.needs) == ((), ("nets/pruned",))


def test_what_is_done_is_skipped_and_says_since_when(engine_run, chain):
    make(engine_run, chain[1])
    found = told(engine_run, chain)
    assert {what for what, _ in found.values()} == {"skip"}
    assert all(why.startswith("it was sealed 20") for _, why in found.values())


def test_what_changed_is_named_and_what_rests_on_it_says_so(engine_run, chain):
    make(engine_run, chain[1])
    net = replace(chain[0], value=3)
    found = told(engine_run, [replace(chain[1], before=(net,))])
    assert found["nets/pruned"] == ("do again", "add.value is 3, was 1")
    assert found["onnx/pruned/fp32"] == ("do again", "nets/pruned is made before it")
    net = replace(chain[0], read=(("images", "b" * 64),))
    assert told(engine_run, [net])["nets/pruned"] == ("do again", "another images")


def test_what_was_interrupted_goes_on(engine_run, chain):
    (engine_run.root / "nets/pruned/checkpoints").mkdir(parents=True)
    assert told(engine_run, chain)["nets/pruned"] == ("go on", "it was interrupted")


def test_force_does_all_again(engine_run, chain):
    make(engine_run, chain[1])
    assert set(told(engine_run, chain, force=True).values()) == {("do again", "that is asked for")}


def test_no_device_is_asked(engine_run, chain, tied):
    engine = tied("engines/pruned/fp32@quick", 10, (chain[0],), name="compile")
    make(engine_run, engine)
    assert told(engine_run, [engine])[engine.place][0] == "skip"
    assert engine.looked == []
