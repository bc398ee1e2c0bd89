"""A window: the raw samples of one timing on a board, held against the host's own clock before they are believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robustdeploy.devices import answers
from robustdeploy.devices.answers import array_of, impossible
from robustdeploy.onboard.timing import EMPTY_CALLS, MOST_SAMPLES, Nanoseconds, Plan
from robustdeploy.onboard.types import Scores
from robustdeploy.onboard.wire import Array

_CLOCKS_APART = 1.01
"""How much faster a board's clock may run than the host's."""


@dataclass(frozen=True)
class Window:
    """What one timing gave, with the sensors and the scores around it."""

    samples_ns: Nanoseconds
    empty_ns: Nanoseconds
    warmup_runs: int
    duration_ns: int
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    scores_before: Scores
    scores_after: Scores


def window_from(
    head: answers.Window, arrays: dict[str, Array], plan: Plan, took_s: float, scores: tuple[int, int | None]
) -> Window:
    """Check one answer to ``plan`` that took ``took_s`` on the host's clock; ``scores`` is the shape of its scores.

    Raises BoardError naming the field that cannot be.
    """
    window = Window(
        samples_ns=array_of(arrays, "samples_ns", "int64", (None,), "time"),
        empty_ns=array_of(arrays, "empty_ns", "int64", (EMPTY_CALLS,), "time"),
        warmup_runs=head.warmup_runs,
        duration_ns=head.duration_ns,
        before=head.before.model_dump(),
        after=head.after.model_dump(),
        scores_before=array_of(arrays, "scores_before", "float32", scores, "time"),
        scores_after=array_of(arrays, "scores_after", "float32", scores, "time"),
    )
    _check_duration(window, plan, took_s)
    _check_samples(window, plan)
    _check_warmup(window, plan, took_s)
    return window


def _check_duration(window: Window, plan: Plan, took_s: float) -> None:
    lasted = window.duration_ns * 1e-9
    if lasted > took_s * _CLOCKS_APART:
        raise impossible("time", "duration_ns", f"is {lasted:.4g} s, but the whole call took {took_s:.4g} s here")
    if lasted * _CLOCKS_APART < plan.min_s and len(window.samples_ns) < MOST_SAMPLES:
        raise impossible("time", "duration_ns", f"is {lasted:.4g} s, but {plan.min_s:g} s were asked for")
    empty = int(window.empty_ns.min()), int(window.empty_ns.max())
    if empty[0] < 0 or empty[1] > took_s * 1e9 * _CLOCKS_APART:
        raise impossible("time", "empty_ns", f"must be 0 to {took_s * 1e9:.4g} ns, not {empty[0]:,} to {empty[1]:,} ns")


def _check_samples(window: Window, plan: Plan) -> None:
    samples, lasted = window.samples_ns, window.duration_ns * 1e-9
    count = len(samples)
    enough = count >= plan.min_samples or lasted * _CLOCKS_APART >= plan.max_s
    if not (1 <= count <= MOST_SAMPLES and (enough or count == MOST_SAMPLES)):
        raise impossible("time", "samples_ns", f"holds {count:,} samples in {lasted:.4g} s, not {plan.min_samples:,}")
    shortest, longest = int(samples.min()), int(samples.max())
    if shortest <= 0:
        raise impossible("time", "samples_ns", f"must be above 0 ns, and one sample is {shortest:,} ns")
    if shortest < (least := int(window.empty_ns.min())):
        raise impossible("time", "samples_ns", f"holds {shortest:,} ns, but an empty call took {least:,} ns there")
    # A sample beyond the window comes first: it could make the sum overflow.
    if longest > window.duration_ns or (total := int(samples.sum())) > window.duration_ns:
        found = longest if longest > window.duration_ns else total
        raise impossible("time", "samples_ns", f"comes to {found * 1e-9:.4g} s in a window of {lasted:.4g} s")


def _check_warmup(window: Window, plan: Plan, took_s: float) -> None:
    """As many calls as fit: one alone where no warm-up was asked for, else none quicker than half the quickest."""
    before_s = took_s * _CLOCKS_APART - window.duration_ns * 1e-9
    most = 1 if plan.warmup_s == 0 else max(1, int(2 * before_s * 1e9 / int(window.samples_ns.min())))
    if window.warmup_runs > most:
        raise impossible("time", "warmup_runs", f"is {window.warmup_runs:,}, but {most:,} at most were possible")
