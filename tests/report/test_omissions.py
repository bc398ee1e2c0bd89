"""Each check that can be switched off is listed once it is, and counted in a row that a rule can bound."""

import pytest

from robustdeploy.core.gate import Outcome, Rule
from robustdeploy.core.recipe import Recipe, Train
from robustdeploy.core.records import ChannelCount, NetRecord
from robustdeploy.core.subject import subject_from
from robustdeploy.report.judge import judge
from robustdeploy.report.omissions import omissions_of, skipped_row

RECIPE = Recipe(name="t")
COSTS = {"macs": 1, "params": 1, "memory_bytes": None, "dense_macs": 2, "dense_params": 2, "dense_memory_bytes": None}
PRUNED = NetRecord(**COSTS, channels=(ChannelCount(layer="a", kept=1, dense=2),), data={})
WHOLE = {"target": {"backend": {"name": "onnxruntime"}, "status": "tested"}, "evaluate": {"limit": None}}


def found(report, without=lambda row: False, recipe=RECIPE, training=PRUNED, **parameters):
    rows = [row for row in report.measurements if not without(row)]
    return [each.id for each in omissions_of(recipe, training, WHOLE | parameters, rows)]


def target(**fields):
    return {"target": WHOLE["target"] | fields}


def test_a_whole_evaluation_leaves_nothing_out(report):
    assert found(report) == []


@pytest.mark.parametrize(
    ("without", "name"),
    [
        (lambda row: row.metric == "robust_accuracy_at_eps", "eps-curve"),
        (lambda row: row.kind == "query", "query-attack"),
        (lambda row: row.kind == "transfer" and row.metric == "robust_accuracy", "gradient-attack"),
        (lambda row: row.subject.startswith("dense/"), "baseline"),
        (lambda row: row.metric.startswith("latency_ms."), "latency"),
    ],
)
def test_rows_that_are_missing_are_told(report, without, name):
    assert found(report, without) == [name]


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({"evaluate": {"limit": 1000}}, ["limit"]),
        ({"evaluate": {"limit": 2000}}, []),  # more than there are: all were used
        (target(emulated=True), ["emulated"]),
        (target(status="contract-tested"), ["contract-tested"]),
        (target(backend={"name": "null"}), ["null-backend"]),
    ],
)
def test_settings_that_narrow_are_told(report, parameters, names):
    assert found(report, **parameters) == names


def test_a_training_that_was_not_watched_or_not_seen_is_told(report):
    assert found(report, recipe=RECIPE.model_copy(update={"train": Train(sentinel=False)})) == ["sentinel"]
    assert found(report, training=PRUNED.model_copy(update={"data": {"imported": "elsewhere"}})) == ["training"]


def test_test_images_that_were_left_out_are_told(report):
    (told,) = omissions_of(RECIPE, PRUNED, WHOLE, report.measurements, reading={"test_unreadable_skipped": 3})
    assert (told.id, told.text) == ("unreadable", "3 test images could not be read and were left out")


def test_a_net_that_was_not_pruned_needs_no_net_beside_it(report):
    dense = PRUNED.model_copy(update={"channels": ()})
    assert found(report, lambda row: row.subject.startswith("dense/"), training=dense) == []


@pytest.mark.parametrize(("left_out", "expected"), [(False, Outcome.PASS), (True, Outcome.FAIL)])
def test_a_rule_can_demand_that_nothing_was_left_out(report, left_out, expected):
    rows = [row for row in report.measurements if not (left_out and row.metric == "robust_accuracy_at_eps")]
    omissions = list(omissions_of(RECIPE, PRUNED, WHOLE, rows))
    demand = Rule(id="RD-ALL-01", metric="checks_skipped", at_most=0)
    verdict = judge([skipped_row(omissions, subject_from("pruned/fp32@host-cpu"))], [], [demand], omissions)
    assert verdict.outcome is expected
    assert ("robustness over eps was not measured" in "".join(verdict.unchecked)) is left_out
