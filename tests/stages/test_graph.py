"""The graph of a recipe: no stage twice, nothing found twice, and only what is asked for."""

import pytest

from robustdeploy.core.load import load_recipe, load_target
from robustdeploy.core.recipe import Choice
from robustdeploy.engine.run import Run
from robustdeploy.engine.stage import in_order
from robustdeploy.stages.graph import Graph
from robustdeploy.stages.session import Session

TARGETS = ("host-cpu", "null")


@pytest.fixture
def places(tmp_path):
    def made(*settings, own="pruned", targets=TARGETS):
        recipe = load_recipe("digits-resnet8", settings)
        graph = Graph(Session(Run(tmp_path, recipe), recipe), own)
        return [stage.place for stage in in_order(list(graph.goals([load_target(name) for name in targets])))]

    return made


def test_two_nets_on_two_targets_have_each_stage_once_and_each_attack_once(places):
    found = places("baseline=deploy")
    assert len(found) == len(set(found)) == 2 + 2 + 2 + 4 + 4
    assert [place for place in found if place.startswith("attacks/")] == ["attacks/pruned/fp32", "attacks/dense/fp32"]
    assert {place for place in found if place.startswith("boards/")} == {
        f"boards/{net}/fp32@{target}" for net in ("pruned", "dense") for target in TARGETS
    }
    before = {place: found.index(place) for place in found}
    assert before["nets/pruned"] < before["onnx/pruned/fp32"] < before["engines/pruned/fp32@null"]
    assert before["engines/pruned/fp32@null"] < before["boards/pruned/fp32@null"]


def test_a_baseline_that_is_only_compared_is_attacked_in_torch_and_compiled_to_take_turns(places):
    assert sorted(place for place in places() if "/dense" in place) == [
        "attacks/dense/fp32",
        "engines/dense/fp32@host-cpu",
        "engines/dense/fp32@null",
        "nets/dense",
        "onnx/dense/fp32",
    ]


def test_nothing_takes_turns_where_latency_says_nothing(places):
    found = places(targets=("aarch64-emulated",))
    assert sorted(place for place in found if "/dense" in place) == ["attacks/dense/fp32", "nets/dense"]


@pytest.mark.parametrize(
    ("settings", "own"), [(["baseline=false"], "pruned"), (["budget.ops=null"], "dense"), ([], "imported")]
)
def test_without_a_baseline_there_is_one_net(places, settings, own):
    found = places(*settings, own=own)
    assert {place.split("/")[1] for place in found} == {own}


def test_targets_of_another_opset_get_a_file_of_their_own(places):
    found = places(targets=("host-cpu", "null", "jetson-orin"))
    assert sorted(place for place in found if place.startswith("onnx/")) == [
        f"onnx/{net}/fp32{opset}" for net in ("dense", "pruned") for opset in ("", ".opset18")
    ]


def test_what_runs_on_a_target_is_named_by_its_precision(tmp_path):
    recipe, target = load_recipe("digits-resnet8"), load_target("null")
    target = target.model_copy(update={"precisions": (Choice(name="int8"),)})
    graph = Graph(Session(Run(tmp_path, recipe), recipe), "pruned")
    (measure,) = graph.measures(target)
    assert measure.place == "boards/pruned/int8@null"
    assert measure.engine.place == "engines/pruned/int8@null"
    # Its own twin is attacked, and its file is made of the exported one.
    assert (measure.found.place, measure.export.place) == ("attacks/pruned/int8", "onnx/pruned/int8")
    assert measure.export.export.place == "onnx/pruned/fp32"


def test_targets_that_ask_for_another_form_of_a_precision_get_a_file_of_their_own(places):
    found = places("precisions=[int8]", targets=("host-cpu", "jetson-orin"))
    files = [place for place in found if place.startswith(("onnx/pruned", "attacks/"))]
    assert files == [
        "onnx/pruned/fp32",
        "onnx/pruned/int8",
        "attacks/pruned/fp32",
        "attacks/pruned/int8",
        "attacks/dense/fp32",
        "onnx/pruned/fp32.opset18",
        "onnx/pruned/int8.s8s8.opset18",
        "attacks/pruned/int8.s8s8.opset18",
    ]


def test_a_dense_net_that_was_measured_on_a_target_stays_deployed(tmp_path):
    recipe = load_recipe("digits-resnet8")
    run = Run.for_recipe(tmp_path, recipe, "mine")
    graph = Graph(Session(run, recipe), "pruned")
    assert graph.deployed == ("pruned",)
    slot = run.slot("measure", "boards/dense/fp32@null", {}, {})
    slot.begin()
    slot.seal([], {})
    assert graph.deployed == ("pruned", "dense")
