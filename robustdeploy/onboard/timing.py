"""Time a call: warm up, then sample until there is enough. What the samples mean is worked out on the host."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import UsageError

# Bounds what a board must hold and send: two arrays of 8 MB each.
MOST_SAMPLES = 1_000_000
EMPTY_CALLS = 1000
CHECKED = 16
"""Batches that are scored before and after timing, at most, so that the host can compare."""

Clock = Callable[[], int]
Nanoseconds = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """One window: at least ``min_s`` and ``min_samples``, at most ``max_s``, after ``warmup_s`` of warm-up."""

    batch: int = 1
    warmup_s: float = 0.2
    min_s: float = 0.3
    max_s: float = 6.0
    # A bound on the 99th percentile needs 662 samples: MLPerf's early stopping at 99 % confidence.
    min_samples: int = 700

    def __post_init__(self) -> None:
        sound = self.batch >= 1 and self.min_samples >= 1 and 0 <= self.warmup_s <= 3600 and 0 < self.max_s <= 3600
        if not (sound and 0 <= self.min_s <= self.max_s):
            raise UsageError(f"{self} cannot be followed; it needs 0 ≤ min_s ≤ max_s ≤ 3600 and counts of at least 1")


@dataclass(frozen=True)
class Taken:
    """What one window gave, in nanoseconds and in the order it was taken."""

    samples_ns: Nanoseconds
    starts_ns: Nanoseconds
    """When each sample began, since the window did."""
    empty_ns: Nanoseconds
    """Times of an empty call in the same harness; that is part of every sample and is not subtracted."""
    warmup_runs: int
    duration_ns: int
    """From before the first sample to after the last."""


# perf_counter_ns is monotonic: a wall clock that NTP sets during the window would add or hide milliseconds.
def measure(run: Callable[[], None], plan: Plan, clock: Clock = time.perf_counter_ns) -> Taken:
    """Time ``run`` by ``plan``; ``clock`` gives nanoseconds and never goes back."""
    warmup_runs = _warm_up(run, plan, clock)
    collecting = gc.isenabled()
    # What was left by the requests before would otherwise be collected in the first window alone.
    gc.collect()
    gc.disable()  # a pause of our own harness is not the engine's latency
    try:
        # In the same loop, right before: so it has the same interpreter, the same clock and the same frequency.
        _, empty = _sample(_nothing, 0, 0, EMPTY_CALLS, clock)
        began = clock()
        starts, samples = _sample(run, int(plan.min_s * 1e9), int(plan.max_s * 1e9), plan.min_samples, clock)
        duration = clock() - began
    finally:
        if collecting:
            gc.enable()
    return Taken(samples, starts, empty, warmup_runs, duration)


def _nothing() -> None:
    pass


def _warm_up(run: Callable[[], None], plan: Plan, clock: Clock) -> int:
    end = clock() + int(plan.warmup_s * 1e9)
    runs = 0
    # One run at least: the first one of an engine allocates memory and chooses kernels.
    while runs == 0 or clock() < end:
        run()
        runs += 1
    return runs


def _sample(
    run: Callable[[], None], min_ns: int, max_ns: int, min_samples: int, clock: Clock
) -> tuple[Nanoseconds, Nanoseconds]:
    """Return starts and times of calls until both minima are met or ``max_ns`` passed; 0 waits for samples alone."""
    starts: list[int] = []
    taken: list[int] = []
    first = clock()
    while True:
        # Nothing stands between the two clocks but the call itself; the bookkeeping follows.
        before = clock()
        run()
        after = clock()
        taken.append(after - before)
        starts.append(before - first)
        enough = after - first >= min_ns and len(taken) >= min_samples
        if enough or (max_ns and after - first >= max_ns) or len(taken) >= MOST_SAMPLES:
            return np.array(starts, np.int64), np.array(taken, np.int64)
