"""A rule against a baseline: judged by where the interval of the change lies, from what the report holds alone."""

import pytest

from robustdeploy.core.baseline import Baseline, Since
from robustdeploy.core.gate import Outcome, Rule
from robustdeploy.core.report import Diagnostic
from robustdeploy.report.judge import judge_report, judged_by

BOARD = "pruned/fp32@jetson-orin"
NAMED = {"run": "main", "sha256": "0a" * 32, "created": "2026-01-01T00:00:00Z", "outcome": Outcome.PASS}


def since(metric="clean_accuracy", **more):
    fields = {"how": "paired", "n": 1000, "confidence": 0.95, "then": 0.83, "lost": 20, "gained": 13}
    return Since(metric=metric, subject=BOARD, **(fields | more))


def line(make_report, rows, metric="clean_accuracy", margin="1 pp", diagnostics=(), **more):
    rule = Rule(id="RG-A-1", metric=metric, no_worse_than_baseline=margin, **more)
    report = make_report(diagnostics=diagnostics, baseline=Baseline(**NAMED, rows=rows), rules=(rule,))
    return judge_report(report).rules[0]


@pytest.mark.parametrize(
    ("low", "high", "outcome", "told"),
    [
        (-0.009, 0.004, Outcome.PASS, "all of the interval is within the margin"),
        (-0.01, 0.004, Outcome.PASS, "within"),
        (-0.03, -0.011, Outcome.FAIL, "all of the interval is beyond the margin"),
        (-0.0171, -0.001, Outcome.INCONCLUSIVE, "these images would meet 1.71 pp"),
        (0.01, 0.02, Outcome.PASS, "within"),
    ],
)
def test_where_the_interval_lies_decides(make_report, low, high, outcome, told):
    found = line(make_report, (since(change=(low + high) / 2, low=low, high=high),))
    assert found.outcome is outcome
    assert told in found.text
    assert "main (report 0a0a0a0a0a0a, PASS)" in found.text
    assert "on the same 1,000 images, 20 lost and 13 gained" in found.text


@pytest.mark.parametrize(
    ("metric", "change", "bounds", "margin", "outcome"),
    [
        ("latency_ms.p50", 1.03, (1.01, 1.05), "5 %", Outcome.PASS),
        ("latency_ms.p50", 1.08, (1.06, 1.1), "5 %", Outcome.FAIL),
        ("latency_ms.p50", 1.08, (1.04, 1.1), "5 %", Outcome.INCONCLUSIVE),
        # A bound that noise may have moved decides nothing; the other one still does.
        ("latency_ms.p50", 1.08, (None, 1.1), "5 %", Outcome.INCONCLUSIVE),
        ("latency_ms.p50", 1.02, (None, 1.04), "5 %", Outcome.PASS),
        ("latency_ms.p50", 1.08, (1.06, None), "5 %", Outcome.FAIL),
        ("latency_ms.p50", 1.02, (1.0, None), "5 %", Outcome.INCONCLUSIVE),
        # The same net differs by as much from one evaluation to the next.
        ("latency_ms.p50", 1.015, (1.01, 1.019), "0", Outcome.INCONCLUSIVE),
    ],
)
def test_ratios_are_judged_alike_and_noise_takes_a_bound_away(make_report, metric, change, bounds, margin, outcome):
    rows = (since(metric, how="runs", n=10, then=1.8, change=change, low=bounds[0], high=bounds[1], why="noise"),)
    assert line(make_report, rows, metric, margin).outcome is outcome


def test_counts_are_judged_by_themselves(make_report):
    for change, outcome in ((0.0, Outcome.PASS), (0.001, Outcome.FAIL), (-0.1, Outcome.PASS)):
        rows = (since("ops_fraction", how="counts", n=1, then=0.3, change=change, low=change, high=change),)
        assert line(make_report, rows, "ops_fraction", "0").outcome is outcome


def test_without_a_baseline_or_a_row_of_it_nothing_passes(make_report, report):
    rule = Rule(id="RG-A-1", metric="clean_accuracy", no_worse_than_baseline="50 pp")
    alone = judge_report(report, [rule]).rules[0]
    assert alone.outcome is Outcome.INCONCLUSIVE
    assert "robustdeploy gate --baseline RUN" in alone.text
    assert line(make_report, ()).outcome is Outcome.INCONCLUSIVE
    found = line(make_report, (since(how=None, why="the baseline has no such row"),))
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "the baseline has no such row" in found.text


def test_too_few_images_and_a_wrong_unit_are_inconclusive(make_report):
    rows = (since(change=0.0, low=-0.001, high=0.001),)
    assert line(make_report, rows, n_at_least=2000).outcome is Outcome.INCONCLUSIVE
    assert line(make_report, rows, n_at_least=1000).outcome is Outcome.PASS
    assert "say 1 pp" in line(make_report, rows, margin="1 %").text


def test_doubt_of_the_baseline_takes_a_fail_away_and_no_pass(make_report):
    worse = since(change=-0.05, low=-0.06, high=-0.04, doubt="one-class")
    assert line(make_report, (worse,)).outcome is Outcome.INCONCLUSIVE
    assert "one-class" in line(make_report, (worse,)).text
    assert line(make_report, (worse.model_copy(update={"low": 0.0, "high": 0.1}),)).outcome is Outcome.PASS


def test_what_only_flatters_the_new_number_leaves_a_fail(make_report):
    flattering = Diagnostic(id="d", level="block", text="Too good.", metrics=("clean_accuracy",), flatters=True)
    worse = since(change=-0.05, low=-0.06, high=-0.04)
    assert line(make_report, (worse,), diagnostics=(flattering,)).outcome is Outcome.FAIL
    better = worse.model_copy(update={"low": 0.0, "high": 0.1})
    assert line(make_report, (better,), diagnostics=(flattering,)).outcome is Outcome.INCONCLUSIVE


def test_renderings_name_the_baseline_with_its_whole_hash(make_report):
    from robustdeploy.core.registry import FORMATS

    rule = Rule(id="RG-A-1", metric="clean_accuracy", no_worse_than_baseline="1 pp")
    rows = (since(change=0.0, low=-0.001, high=0.001),)
    report = judged_by(make_report(baseline=Baseline(**NAMED, rows=rows)), (rule,))
    for name in ("md", "junit", "html"):
        assert "0a" * 32 in FORMATS.build(name, {})(report), name
