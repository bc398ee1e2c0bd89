"""Planted cheats: a net that hides its gradients must not be reported as robust; an honest one must not be blamed."""

import sys
from pathlib import Path

import pytest

from robustdeploy import api
from robustdeploy.core.asked import recipe_for
from robustdeploy.core.gate import Outcome
from robustdeploy.core.load import load_target

RECIPE = """
name: planted
net: resnet8
threat: {norm: linf, eps: 0.1}
train: {task: standard, epochs: 5, batch_size: 64, lr: 0.2, device: cpu}
baseline: false
evaluate:
  limit: 100
  curve_limit: 50
  eps_curve: [1.0, 4.0]
  attacks: [fgsm, {name: pgd, steps: 10}, {name: square, queries: 200}]
gate:
  - {id: T-ACC-01, metric: clean_accuracy, at_least: 0.05}
"""
QUICK = """
extends: host-cpu
name: quick
latency: {warmup_s: 0.01, min_s: 0.05, max_s: 1, min_samples: 100}
"""


@pytest.fixture
def evaluated(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])
    (tmp_path / "planted.yaml").write_text(RECIPE)
    (tmp_path / "quick.yaml").write_text(QUICK)
    target = load_target(tmp_path / "quick.yaml")

    def call(*overrides):
        recipe = recipe_for(tmp_path / "planted.yaml", overrides=overrides)
        run = api.prune(recipe, runs=tmp_path / "runs")
        api.export(run, target)
        api.evaluate(run, target)
        return api.report(run, formats=()).report

    return call


def accuracy(report, attack=None):
    metric = "robust_accuracy" if attack else "clean_accuracy"
    found = [m for m in report.measurements if (m.metric, m.subject, m.attack) == (metric, "dense/fp32@quick", attack)]
    return found[0].value


def credibility(report):
    return {each.subject: each.credibility.value for each in report.verdict.robustness}["dense/fp32@quick"]


def blocks(report):
    return {d.id for d in report.diagnostics if d.level == "block"}


# Logits ten thousand times too large need steps that much smaller.
EXHAUSTIVE = pytest.mark.exhaustive
SLOW = ("train.lr=0.00002", "train.weight_decay=0")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cheat", "overrides", "named"),
    [
        ("rounded", (), "zero-gradient"),
        pytest.param("rounded_at_inference", (), "zero-gradient", marks=EXHAUSTIVE),
        pytest.param("saturated", SLOW, "lost-gradient", marks=EXHAUSTIVE),
        pytest.param("saturated_at_inference", (), "lost-gradient", marks=EXHAUSTIVE),
        pytest.param("detached", (), "zero-gradient", marks=EXHAUSTIVE),
    ],
)
def test_a_net_that_hides_its_gradients_is_not_reported_as_robust(evaluated, cheat, overrides, named):
    report = evaluated(f"net=cheats:{cheat}", *overrides)
    assert accuracy(report) > 0.8
    assert accuracy(report, "square-200") < accuracy(report, "pgd-10") - 0.3
    assert accuracy(report, "worst") <= accuracy(report, "square-200")
    assert {"query-beats-transfer", named} <= blocks(report)
    assert credibility(report) == "VOID"
    assert report.verdict.outcome is Outcome.INCONCLUSIVE
    assert any("mislead the transfer attacks" in reason for reason in report.verdict.reasons)
    # The same net under a query attack that is no match for it, and without a curve.
    weak = "evaluate.attacks=[fgsm, {name: pgd, steps: 10}, {name: square, queries: 1}]"
    report = evaluated(f"net=cheats:{cheat}", *overrides, weak, "evaluate.eps_curve=[]")
    assert named in blocks(report)
    assert report.verdict.outcome is Outcome.INCONCLUSIVE


# The least that a rule on robustness asks for.
STRONG = (
    "evaluate.attacks=[fgsm, {name: pgd, steps: 20, restarts: 4}, {name: pgd, steps: 20, loss: margin}, "
    "{name: square, queries: 500}]"
)
ROBUST = "gate=[{id: T-ROB-01, metric: robust_accuracy, attack: worst, at_least: 0.05}]"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cheat", "named"), [pytest.param("decoy", "faithful-gradient", marks=EXHAUSTIVE), ("hard_decoy", "scores-respond")]
)
def test_a_gradient_of_another_net_does_not_pass_whatever_the_attacks(evaluated, cheat, named):
    report = evaluated(f"net=cheats:{cheat}", STRONG, ROBUST, "evaluate.eps_curve=[1.0, 8.0]")
    assert accuracy(report) > 0.8
    assert accuracy(report, "pgd-20-4") > 0.5  # an undefended net, which gradients of its own would break
    assert {"faithful-gradient", named} <= blocks(report)
    assert "least-strength" not in blocks(report)
    assert credibility(report) == "VOID"
    assert report.verdict.rules[0].outcome is Outcome.INCONCLUSIVE
    assert "attacks that follow it are led astray" in report.verdict.rules[0].text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "seed"),
    [("fastat", 0), pytest.param("fastat", 1, marks=EXHAUSTIVE), pytest.param("standard", 0, marks=EXHAUSTIVE)],
)
def test_an_honest_net_is_not_blamed(evaluated, task, seed):
    # As in the shipped recipes, several restarts: what a weak attack leaves standing is no sign of hidden gradients.
    report = evaluated(f"seed={seed}", f"train.task={task}", STRONG)
    assert blocks(report) == set()
    assert credibility(report) == "CREDIBLE"
    assert report.verdict.outcome is Outcome.PASS


def test_an_evaluation_without_a_query_attack_is_inconclusive(evaluated):
    report = evaluated("train.epochs=1", "evaluate.attacks=[fgsm, pgd]", "evaluate.limit=20", "evaluate.curve_limit=5")
    assert "query-beats-transfer" in blocks(report)
    assert credibility(report) != "CREDIBLE"
    assert report.verdict.outcome is Outcome.INCONCLUSIVE


BY_LABELS = STRONG.replace("{name: square, queries: 500}", "{name: square, queries: 500}, {name: rays, queries: 1000}")


@pytest.mark.slow
@EXHAUSTIVE
def test_labels_alone_tell_what_hard_scores_hide(evaluated):
    report = evaluated("net=cheats:hard_decoy", BY_LABELS, ROBUST, "evaluate.eps_curve=[1.0, 8.0]")
    assert accuracy(report, "rays-1000") < min(0.2, accuracy(report, "square-500") - 0.3)
    assert accuracy(report, "worst") <= accuracy(report, "rays-1000")
    # With such an attack, that scores tell nothing hides nothing; that gradients mislead still blocks.
    assert "scores-respond" not in blocks(report)
    assert {"query-beats-transfer", "faithful-gradient"} <= blocks(report)
    after = [row for row in report.measurements if (row.metric, row.attack) == AFTER_QUERIES]
    assert [row.conditions["queries"] for row in after] == [10, 30, 100, 300, 1000]
    assert [row.value for row in after] == sorted((row.value for row in after), reverse=True)
    assert after[-1].value == accuracy(report, "rays-1000")
    seconds = [row.conditions["device_s"] for row in after]
    assert seconds[0] > 0
    assert seconds == sorted(seconds)


AFTER_QUERIES = ("robust_accuracy_after_queries", "rays-1000")
