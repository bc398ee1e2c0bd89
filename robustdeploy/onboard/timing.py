"""Time a call: warm up, then sample until there is enough. What the samples mean is worked out on the host."""

from __future__ import annotations

import gc
import time
from array import array
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
SPLITS = 50
"""Calls after a window whose parts (copies and computation) are told apart, where a toolchain can."""
WARM = 0.02
"""Warm is what got no quicker by more than this share in the last of its groups of calls."""
MOST_WARM_UP = 5
"""Times ``warmup_s`` that warming up may take, where calls go on getting quicker."""
_GROUPS = 10
"""Parts of ``warmup_s`` whose medians are compared, the last `_LAST` with all before."""
_LAST = 3
_SPIN_NS = 500_000
"""Before an image is due: sleeping to the very moment would be late by however long the system takes to wake up."""

Clock = Callable[[], int]
Nanoseconds = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """One window: at least ``min_s`` and ``min_samples``, at most ``max_s``, after ``warmup_s`` of warm-up or more."""

    batch: int = 1
    warmup_s: float = 0.2
    min_s: float = 0.3
    max_s: float = 6.0
    # A bound on the 99th percentile needs 662 samples: MLPerf's early stopping at 99 % confidence.
    min_samples: int = 700
    period_ns: int = 0
    """Between the moments at which batches are due, as a sensor gives them; 0: each follows the one before at once."""

    def __post_init__(self) -> None:
        sound = self.batch >= 1 and self.min_samples >= 1 and 0 <= self.warmup_s <= 3600 and 0 < self.max_s <= 3600
        paced = type(self.period_ns) is int and 0 <= self.period_ns <= 3600 * 10**9
        if not (sound and paced and 0 <= self.min_s <= self.max_s):
            raise UsageError(f"{self} cannot be followed; it needs 0 ≤ min_s ≤ max_s ≤ 3600 and counts of at least 1")


@dataclass(frozen=True)
class Taken:
    """What one window gave, in nanoseconds and in the order it was taken."""

    samples_ns: Nanoseconds
    starts_ns: Nanoseconds
    """When each sample began, since the window did. In a paced window, batch k is due at k times the period."""
    empty_ns: Nanoseconds
    """Times of an empty call in the same harness; that is part of every sample and is not subtracted."""
    warmup_runs: int
    warm: bool
    """Whether the calls had stopped getting quicker when the window began."""
    began_ns: int
    """When the window began, on the clock of the samples."""
    duration_ns: int
    """From before the first sample to after the last."""


# perf_counter_ns is monotonic: a wall clock that NTP sets during the window would add or hide milliseconds.
def measure(
    run: Callable[[], None],
    plan: Plan,
    clock: Clock = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> Taken:
    """Time ``run`` by ``plan``; ``clock`` gives nanoseconds and never goes back."""
    warmup_runs, warm = _warm_up(run, int(plan.warmup_s * 1e9), clock)
    collecting = gc.isenabled()
    # What was left by the requests before would otherwise be collected in the first window alone.
    gc.collect()
    gc.disable()  # a pause of our own harness is not the engine's latency
    try:
        # In the same loop, right before: so it has the same interpreter, the same clock and the same frequency.
        _, empty = _sample(_nothing, Plan(min_s=0, max_s=3600, min_samples=EMPTY_CALLS), clock, sleep)
        began = clock()
        starts, samples = _sample(run, plan, clock, sleep)
        duration = clock() - began
    finally:
        if collecting:
            gc.enable()
    return Taken(samples, starts, empty, warmup_runs, warm, began, duration)


def _nothing() -> None:
    pass


def _warm_up(run: Callable[[], None], least_ns: int, clock: Clock) -> tuple[int, bool]:
    """Run for ``least_ns`` and until it gets no quicker; return how often it ran, and whether that came about."""
    began = clock()
    medians: list[float] = []
    runs = 0
    while True:
        group: list[int] = []
        ends = clock() + least_ns // _GROUPS
        # One run at least: the first one of an engine allocates memory and chooses kernels.
        while not group or clock() < ends:
            before = clock()
            run()
            group.append(clock() - before)
        runs += len(group)
        medians.append(float(np.median(group)))
        passed = clock() - began
        # The quickest and not the last: noise only adds time, and a busy board would never be warm.
        early, late = medians[:-_LAST], medians[-_LAST:]
        warm = bool(early) and min(late) >= (1 - WARM) * min(early)
        if passed >= least_ns and (warm or passed >= MOST_WARM_UP * least_ns):
            return runs, warm


def _sample(
    run: Callable[[], None], plan: Plan, clock: Clock, sleep: Callable[[float], None]
) -> tuple[Nanoseconds, Nanoseconds]:
    """Return starts and times of calls until both minima of ``plan`` are met or its longest time has passed."""
    min_ns, max_ns, period = int(plan.min_s * 1e9), int(plan.max_s * 1e9), plan.period_ns
    # Not lists: objects take new pages of memory every few calls, and a page can cost more than a call.
    starts, taken = array("q"), array("q")
    first = clock()
    while True:
        if period:
            _until(first + len(taken) * period, clock, sleep)
        # Nothing stands between the two clocks but the call itself; the bookkeeping follows.
        before = clock()
        run()
        after = clock()
        taken.append(after - before)
        starts.append(before - first)
        enough = after - first >= min_ns and len(taken) >= plan.min_samples
        if enough or after - first >= max_ns or len(taken) >= MOST_SAMPLES:
            return np.array(starts, np.int64), np.array(taken, np.int64)


def _until(due: int, clock: Clock, sleep: Callable[[float], None]) -> None:
    """Wait for the moment ``due``; where it has passed, the call before was late and the next one begins at once."""
    if (rest := due - clock() - _SPIN_NS) > 0:
        sleep(rest * 1e-9)
    while clock() < due:
        pass
