"""Margins of rules: units, what is refused and with which fix."""

import pytest
from pydantic import ValidationError

from robustdeploy.core.gate import Rule
from robustdeploy.core.load import load_recipe
from robustdeploy.core.margin import held_by, margin_of
from robustdeploy.core.metrics import METRICS
from robustdeploy.core.plain import plain
from robustdeploy.core.rules import meaning_problems
from robustdeploy.errors import RecipeError


def rule(metric, margin, **more):
    return Rule(id="RG-A-1", metric=metric, no_worse_than_baseline=margin, **more)


@pytest.mark.parametrize(
    ("written", "kept", "number"),
    [("1 pp", "1 pp", 0.01), ("0.5pp", "0.5 pp", 0.005), (" 5% ", "5 %", 0.05), (0, "0", 0), ("0", "0", 0)],
)
def test_a_margin_is_a_number_with_its_unit(written, kept, number):
    held = rule("ops", written).no_worse_than_baseline
    assert (held, margin_of(held)) == (kept, pytest.approx(number))


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (1, "say 1 pp of a share"),
        ("0.01", "say 0.01 pp of a share"),
        ("-1 pp", "must be 0, percentage points such as 1 pp"),
        ("1 points", "must be 0"),
        ("1,5 pp", "1.5"),
        (True, "must be 0"),
        (None, "exactly one of"),
        ("9" * 200, "must be 0"),
    ],
)
def test_what_is_no_margin_is_refused(written, told):
    with pytest.raises(ValidationError, match=told):
        rule("clean_accuracy", written)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"metric": "clean_accuracy", "margin": "1 %"}, "say 1 pp"),
        ({"metric": "latency_ms.p99", "margin": "5 pp"}, "say 5 %"),
        ({"metric": "ops", "margin": "5 pp"}, "say 5 %"),
        ({"metric": "ops_fraction", "margin": "5 %"}, "say 5 pp"),
        ({"metric": "clean_accuracy", "margin": "100 pp"}, "could never fail"),
        ({"metric": "r2_cw", "margin": "1 %", "attack": "cw", "subject": "*/*@torch"}, "these can: clean_accuracy"),
        ({"metric": "clean_accuracy", "margin": "1 pp", "subject": "dense/fp32@torch"}, "on targets, never in torch"),
        ({"metric": "params", "margin": "1 %", "n_at_least": 5}, "remove n_at_least"),
        ({"metric": "robust_accuracy", "margin": "1 pp", "attack": "worst"}, None),
        ({"metric": "latency_ms.p99.9", "margin": "5 %"}, None),
        ({"metric": "throughput_images_s", "margin": "0"}, None),
    ],
)
def test_a_margin_must_suit_its_metric(given, told):
    margin = given.pop("margin")
    texts = [text for _, text in meaning_problems(rule(given.pop("metric"), margin, **given))]
    assert texts == [] if told is None else [text for text in texts if told in text] == texts != []


def test_every_metric_that_can_be_held_against_a_baseline_has_a_better_side():
    held = [metric for metric in METRICS.values() if held_by(metric)]
    assert {"clean_accuracy", "ops", "latency_ms.p50"} <= {metric.name for metric in held}
    assert all(metric.higher_is_better is not None for metric in held)


def test_a_recipe_whose_rule_needs_a_baseline_must_name_one(tmp_path):
    words = ["gate=[{id: RG-A-1, metric: ops, no_worse_than_baseline: 0}]"]
    with pytest.raises(RecipeError, match="set gate_baseline, or put the rule into a file"):
        load_recipe("digits-resnet8", words, foresee=True)
    recipe = load_recipe("digits-resnet8", [*words, "gate_baseline=runs/main"], foresee=True)
    assert plain(recipe)["gate_baseline"] == "runs/main"
