"""A window: the raw samples of one timing on a board, held against the host's own clock before they are believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from robustdeploy.devices import answers
from robustdeploy.devices.answers import array_of, impossible
from robustdeploy.onboard.timing import EMPTY_CALLS, MOST_SAMPLES, SPLITS, Nanoseconds, Plan
from robustdeploy.onboard.types import PARTS, Scores
from robustdeploy.onboard.wire import Array

_CLOCKS_APART = 1.01
"""How much faster a board's clock may run than the host's."""
_HARNESS = 10
"""How many empty calls the harness may take between two samples, usually; one stall there means nothing."""
_STALL_NS = 100_000_000
"""Longest that a busy board may hold the harness up outside of all samples of a window."""
_HARNESS_NS = 5_000
_COLD = 0.1
"""And which share of a usual sample: a call that needs much memory leaves none of the harness in the caches."""
_LONG = 2
"""Times the usual sample, from which on one was interrupted."""
_STALLED = 3, 0.01
"""At so many places, and at this share of all, something else may hold the harness up; most of that hits samples."""
_EMPTY_NS = 10_000
"""The most that an empty call may usually take; the interpreter of a small board needs a tenth of it."""


WINDOW = ("samples_ns", "starts_ns", "empty_ns", "scores_before", "scores_after", "parts_ns")
"""Arrays of its answer."""


@dataclass(frozen=True)
class Window:
    """What one timing gave, with the sensors and the scores around it."""

    samples_ns: Nanoseconds
    starts_ns: Nanoseconds
    """When each sample began, since the window did."""
    empty_ns: Nanoseconds
    warmup_runs: int
    duration_ns: int
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    scores_before: Scores
    scores_after: Scores
    warm: bool = True
    """Whether calls had stopped getting quicker when it began."""
    began_ns: int = 0
    """When it began, on the board's monotonic clock."""
    first_ns: int | None = None
    """Of the engine's first call of all; None where it was asked before."""
    peak_memory_bytes: int = 0
    """Of the process that ran the engine; 0 where its system does not tell."""
    parts_ns: Mapping[str, Nanoseconds] = field(default_factory=dict)
    """What the parts of some calls took, where the toolchain tells them apart."""
    period_ns: int = 0
    """Between the moments at which its batches were due; 0: each followed the one before at once."""
    op: str = "time"
    """What was asked: ``time``, or ``run`` for a fresh process."""


def window_from(
    op: str, head: answers.Window, arrays: dict[str, Array], plan: Plan, took_s: float, scores: tuple[int, int | None]
) -> Window:
    """Check one answer to ``op`` that took ``took_s`` on the host's clock; ``scores`` is the shape of its scores.

    Raises BoardError naming the field that cannot be.
    """
    samples = array_of(arrays, "samples_ns", "int64", (None,), op)
    window = Window(
        samples_ns=samples,
        starts_ns=array_of(arrays, "starts_ns", "int64", (len(samples),), op),
        empty_ns=array_of(arrays, "empty_ns", "int64", (EMPTY_CALLS,), op),
        warmup_runs=head.warmup_runs,
        duration_ns=head.duration_ns,
        before=head.before.model_dump(),
        after=head.after.model_dump(),
        scores_before=array_of(arrays, "scores_before", "float32", scores, op),
        scores_after=array_of(arrays, "scores_after", "float32", scores, op),
        warm=head.warm,
        began_ns=head.began_ns,
        first_ns=head.first_ns,
        peak_memory_bytes=head.peak_memory_bytes,
        parts_ns=_parts(op, head.parts, arrays, took_s),
        period_ns=plan.period_ns,
        op=op,
    )
    _check_duration(window, plan, took_s)
    _check_samples(window, plan)
    _check_warmup(window, plan, took_s)
    if (head.first_ns or 0) > took_s * 1e9 * _CLOCKS_APART:
        raise impossible(op, "first_ns", f"is {head.first_ns:,}, but the whole call took {took_s:.4g} s here")
    return window


def _parts(op: str, names: list[str], arrays: dict[str, Array], took_s: float) -> dict[str, Nanoseconds]:
    """Read what the parts of a call took; no part is left out, and all together fit into the call that told them."""
    found = array_of(arrays, "parts_ns", "int64", (SPLITS if names else 0, len(names)), op)
    if names and tuple(names) != PARTS:
        raise impossible(op, "parts", f"must be {', '.join(PARTS)}, or none, not {', '.join(names)[:100]}")
    if names and not 0 <= int(found.min()) <= int(found.max()) <= took_s * 1e9 * _CLOCKS_APART:
        raise impossible(op, "parts_ns", f"must be 0 to {took_s * 1e9:.4g} ns")
    return {name: found[:, column] for column, name in enumerate(names)}


def _check_duration(window: Window, plan: Plan, took_s: float) -> None:
    op, lasted = window.op, window.duration_ns * 1e-9
    if lasted > took_s * _CLOCKS_APART:
        raise impossible(op, "duration_ns", f"is {lasted:.4g} s, but the whole call took {took_s:.4g} s here")
    # A shorter window than asked for could be picked for its good samples.
    if lasted * _CLOCKS_APART < plan.min_s and len(window.samples_ns) < MOST_SAMPLES:
        raise impossible(op, "duration_ns", f"is {lasted:.4g} s, but {plan.min_s:g} s were asked for")
    empty = int(window.empty_ns.min()), int(window.empty_ns.max())
    if empty[0] < 0 or empty[1] > took_s * 1e9 * _CLOCKS_APART:
        raise impossible(
            window.op, "empty_ns", f"must be 0 to {took_s * 1e9:.4g} ns, not {empty[0]:,} to {empty[1]:,} ns"
        )
    # The empty call excuses gaps between samples below, so a board must not claim that it is slow.
    if (usual := _usual(window.empty_ns)) > _EMPTY_NS:
        raise impossible(op, "empty_ns", f"is usually {usual:,} ns, where {_EMPTY_NS:,} is very slow already")


def _check_samples(window: Window, plan: Plan) -> None:
    op, samples, lasted = window.op, window.samples_ns, window.duration_ns * 1e-9
    count = len(samples)
    enough = count >= plan.min_samples or lasted * _CLOCKS_APART >= plan.max_s
    if not (1 <= count <= MOST_SAMPLES and (enough or count == MOST_SAMPLES)):
        raise impossible(
            window.op, "samples_ns", f"holds {count:,} samples in {lasted:.4g} s, not {plan.min_samples:,}"
        )
    shortest, longest = int(samples.min()), int(samples.max())
    if shortest <= 0:
        raise impossible(op, "samples_ns", f"must be above 0 ns, and one sample is {shortest:,} ns")
    # A run of the engine goes through the same harness as the empty call, so it cannot be quicker.
    for word, ours, empty in (
        ("holds", shortest, int(window.empty_ns.min())),
        ("is usually", _usual(samples), _usual(window.empty_ns)),
    ):
        if ours < empty:
            raise impossible(op, "samples_ns", f"{word} {ours:,} ns, but an empty call took {empty:,} ns there")
    if longest > window.duration_ns:
        raise impossible(op, "samples_ns", f"holds {longest * 1e-9:.4g} s in a window of {lasted:.4g} s")
    _check_order(window)
    if window.period_ns:
        _check_due(window)
    else:
        _check_gaps(window)


def _check_order(window: Window) -> None:
    """Samples lie one after another in their window."""
    starts, samples = window.starts_ns, window.samples_ns
    if int(starts.min()) < 0 or int(starts.max()) > window.duration_ns:
        raise impossible(window.op, "starts_ns", f"leaves a window of {window.duration_ns * 1e-9:.4g} s")
    ends = starts + samples
    gaps = starts[1:] - ends[:-1]
    if int(ends.max()) > window.duration_ns or (len(gaps) and int(gaps.min()) < 0):
        raise impossible(window.op, "samples_ns", "overlap each other or the end of their window")


def _check_due(window: Window) -> None:
    """No batch begins before it is due. One that begins late makes its own response longer, which nobody gains by."""
    due = window.period_ns * np.arange(len(window.starts_ns))
    if int((window.starts_ns - due).min()) < 0:
        raise impossible(window.op, "starts_ns", "begins before its image was due")


def _check_gaps(window: Window) -> None:
    """No more lies between samples than the harness itself needs."""
    starts, samples = window.starts_ns, window.samples_ns
    # Shortened samples leave holes in their window, which is why the starts are asked for as well.
    gaps = starts[1:] - (starts + samples)[:-1]
    # Half of the gaps at least are free of stalls, however busy the board is.
    usual = _usual(gaps) if len(gaps) else 0
    allowed = int(_HARNESS_NS + _HARNESS * _usual(window.empty_ns) + _COLD * _usual(samples))
    if usual > allowed:
        told = f"usually leaves {usual:,} ns between two, where the harness takes {allowed:,} at most"
        raise impossible(window.op, "samples_ns", told)
    # Whoever took the processor in the middle of a call left none of the harness in the caches; such a call is long.
    after_long = samples[:-1] > _LONG * _usual(samples)
    if (stalled := int(((gaps > allowed) & ~after_long).sum())) > _STALLED[0] + _STALLED[1] * len(samples):
        told = f"leaves more than {allowed:,} ns, which the harness takes at most, at {stalled:,} places"
        raise impossible(window.op, "samples_ns", told)
    # A stall falls outside of the samples only by chance: in a window of some length most of the time is theirs.
    timed, needed = int(samples.sum()), allowed * len(samples)
    if 2 * timed + needed + _STALL_NS < window.duration_ns:
        told = f"comes to {timed * 1e-9:.4g} s in a window of {window.duration_ns * 1e-9:.4g} s"
        raise impossible(window.op, "samples_ns", f"{told}, and nothing else ran in it")


def _usual(times: Nanoseconds) -> int:
    return int(np.median(times))


def _check_warmup(window: Window, plan: Plan, took_s: float) -> None:
    """As many calls as fit: one alone where no warm-up was asked for, else none quicker than half the quickest."""
    before_s = took_s * _CLOCKS_APART - window.duration_ns * 1e-9
    most = 1 if plan.warmup_s == 0 else max(1, int(2 * before_s * 1e9 / int(window.samples_ns.min())))
    if window.warmup_runs > most:
        raise impossible(window.op, "warmup_runs", f"is {window.warmup_runs:,}, but {most:,} at most were possible")
