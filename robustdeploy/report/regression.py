"""Regression: whether a row is worse than its baseline's by more than a margin, by where the interval lies."""

from __future__ import annotations

import math
from dataclasses import dataclass

from robustdeploy.core.baseline import Baseline, Since
from robustdeploy.core.gate import Outcome, Rule
from robustdeploy.core.margin import PERCENT, POINTS, margin_of, margin_problem
from robustdeploy.core.metrics import METRICS, Metric
from robustdeploy.core.report import Measurement
from robustdeploy.evaluate.comparison import LEAST
from robustdeploy.report.quantity import quantity

_ROUNDING = 1e-9
_NO_BASELINE = "no baseline was given; name one with `robustdeploy gate --baseline RUN`"


def class_of(row: Measurement) -> str | None:
    """Return the class that a row is of, where its metric has a row for each."""
    return str(row.conditions.get("class")) if METRICS[row.metric].by_class else None


def since_of(row: Measurement, baseline: Baseline | None) -> Since | None:
    """Return what became of a row since the baseline; None where nobody looked."""
    wanted = (row.metric, row.subject, row.attack, class_of(row))
    rows = baseline.rows if baseline else ()
    return next((each for each in rows if (each.metric, each.subject, each.attack, each.class_name) == wanted), None)


@dataclass(frozen=True)
class _Worse:
    """By how much a row is worse than the baseline's: as a difference of shares, or over the baseline's."""

    by: float
    low: float | None
    high: float | None


def _worse(since: Since, metric: Metric) -> _Worse:
    assert since.change is not None
    same, sign = (0.0 if metric.is_share else 1.0), (-1.0 if metric.higher_is_better else 1.0)
    ends = [None if end is None else sign * (end - same) for end in (since.low, since.high)]
    low, high = ends if sign > 0 else ends[::-1]
    return _Worse(sign * (since.change - same), low, high)


def merit_since(row: Measurement, baseline: Baseline | None) -> float:
    """Return what the worst of several rows has least of."""
    since = since_of(row, baseline)
    if since is None or since.change is None:
        return 0.0
    worse = _worse(since, METRICS[row.metric])
    return -(worse.by if worse.high is None else worse.high)


def judged_since(rule: Rule, row: Measurement, baseline: Baseline | None) -> tuple[Outcome, str]:
    """Judge a row against its baseline: the outcome, and in words what was found and why it is that.

    PASS where all of the interval is within the margin, FAIL where none of it is; anything else is INCONCLUSIVE.
    """
    metric, text = METRICS[row.metric], str(rule.no_worse_than_baseline)
    if problem := margin_problem(metric, text):
        return Outcome.INCONCLUSIVE, problem
    if baseline is None:
        return Outcome.INCONCLUSIVE, _NO_BASELINE
    since = since_of(row, baseline)
    if since is None:
        why = f"it was not held against {baseline.text}; `robustdeploy gate --baseline RUN` does that"
        return Outcome.INCONCLUSIVE, why
    if since.change is None:
        return Outcome.INCONCLUSIVE, f"it cannot be held against {baseline.text}: {since.why}"
    outcome, why = _decided(rule, since, metric, margin_of(text))
    if outcome is Outcome.FAIL and since.doubt:
        outcome = Outcome.INCONCLUSIVE
        why += f"; but what speaks against the baseline's own number ({since.doubt}) may have made it too good"
    return outcome, f"{_found(row, since, metric)}, against {baseline.text}; {why}"


def _decided(rule: Rule, since: Since, metric: Metric, margin: float) -> tuple[Outcome, str]:
    if since.n < rule.n_at_least:
        return Outcome.INCONCLUSIVE, f"only {since.n:,} where {rule.n_at_least:,} are required"
    worse = _worse(since, metric)
    low, high = worse.low, worse.high
    counted = since.how == "counts"
    # What noise may have moved is judged by the bounds that it could not move.
    by_value = counted or (rule.on == "value" and None not in (low, high))
    if by_value:
        low = high = worse.by
    if high is not None and high <= margin + _ROUNDING:
        return Outcome.PASS, "it is within the margin" if by_value else "all of the interval is within the margin"
    if low is not None and low > margin + _ROUNDING:
        # The same net differs by as much from one evaluation to the next.
        if since.how == "runs" and low <= LEAST:
            return Outcome.INCONCLUSIVE, f"a change below {LEAST:.0%} is not told; give a margin of {LEAST:.0%} or more"
        return Outcome.FAIL, "it is beyond the margin" if by_value else "all of the interval is beyond the margin"
    if since.why:
        return Outcome.INCONCLUSIVE, f"nobody can tell: {since.why}; stop what else runs there and measure again"
    assert high is not None
    unit, of = (POINTS, "images") if metric.is_share else (PERCENT, "runs")
    # Rounded up, since a margin of what is shown must then be met.
    needed = math.ceil(1e4 * high) / 100
    text = f"the margin lies inside the interval; these {of} would meet {needed:g} {unit}, and more of them less"
    if since.how == "unpaired":
        text += "; with the baseline's run folder in place of its report alone, images could be paired"
    return Outcome.INCONCLUSIVE, text


def _found(row: Measurement, since: Since, metric: Metric) -> str:
    """Say what was found here and there, the change and its interval, and what that rests on."""

    def told(change: float) -> str:
        return f"{100 * change:+.2f}" if metric.is_share else f"{change:.3f}"

    unit = POINTS if metric.is_share else "times"
    there = "" if since.then is None else f" where it was {quantity(since.then, row.unit)}"
    text = f"found {quantity(row.value, row.unit)}{there}: {told(since.change or 0.0)} {unit}"
    if since.how == "counts":
        return f"{text} (counted exactly)"
    low, high = ("nobody knows" if end is None else told(end) for end in (since.low, since.high))
    text += f", {quantity(since.confidence or 0.95, 'fraction', 0)} interval {low} to {high} {unit}"
    if since.how == "paired":
        return f"{text} on the same {since.n:,} images, {since.lost:,} lost and {since.gained:,} gained"
    return f"{text} by {since.n:,} runs" if since.how == "runs" else f"{text} on {since.n:,} images that are not paired"
