"""Time a call: warm up, sample until there is enough, and state only what the samples support.

A high percentile of few samples is a guess. As in MLPerf's early stopping (99 % confidence, no tolerance), a percentile
is stated only where the samples support it (64 for p90, 662 for p99, 6,636 for p99.9), and its estimate is the order
statistic that the true percentile stays below with 99 % confidence: a small sample costs, it is never forgiven. The
median is the plain one. Every percentile has an interval of two order statistics that holds the true one with 95 %
confidence.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BoardError, UsageError

_CONFIDENCE = 0.99
_TAIL = 0.025
_MOST_SAMPLES = 1_000_000
_PERCENTILES = (50.0, 90.0, 99.0, 99.9)
_MS = 1e-6

Clock = Callable[[], int]
Samples = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """How long to measure: at least ``min_s`` and ``min_samples``, at most ``max_s``, after ``warmup_s`` of warm-up."""

    batch: int = 1
    warmup_s: float = 0.2
    min_s: float = 3.0
    max_s: float = 60.0
    min_samples: int = 7000

    def __post_init__(self) -> None:
        sound = self.batch >= 1 and self.min_samples >= 1 and 0 <= self.warmup_s <= 3600 and 0 < self.max_s <= 3600
        if not (sound and 0 <= self.min_s <= self.max_s):
            raise UsageError(f"{self} cannot be followed; it needs 0 ≤ min_s ≤ max_s ≤ 3600 and counts of at least 1")


@dataclass(frozen=True)
class Percentile:
    """One percentile in ms with its interval; ``value`` is None where the samples do not support it, and why."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    reason: str = ""


@dataclass(frozen=True)
class Timings:
    """What was sampled, in nanoseconds, and what follows from it, in milliseconds."""

    samples_ns: Samples
    percentiles: tuple[Percentile, ...]
    mean_ms: float
    min_ms: float
    max_ms: float
    cv: float
    """Standard deviation over mean."""
    drift: float | None
    """Median of the last third of the samples over that of the first, less 1; None below 30 samples."""
    overhead_ms: float
    """Median time of an empty call in the same harness; it is part of every sample and is not subtracted."""
    warmup_runs: int
    duration_s: float

    def percentile(self, name: str) -> Percentile:
        """Return the percentile called ``name``, e.g. ``p99``."""
        return next(p for p in self.percentiles if p.name == name)


def measure(run: Callable[[], None], plan: Plan, clock: Clock = time.perf_counter_ns) -> Timings:
    """Time ``run`` by ``plan``; ``clock`` gives nanoseconds and never goes back."""
    warmup_runs = _warm_up(run, plan, clock)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # a pause of our own harness is not the engine's latency
    try:
        overhead = _sample(_nothing, 0, 0, 1000, clock)
        began = clock()
        samples = _sample(run, int(plan.min_s * 1e9), int(plan.max_s * 1e9), plan.min_samples, clock)
        duration = clock() - began
    finally:
        if collecting:
            gc.enable()
    return timings_from_samples(samples, float(np.median(overhead)) * _MS, warmup_runs, duration * 1e-9)


def timings_from_samples(samples: Samples, overhead_ms: float, warmup_runs: int, duration_s: float) -> Timings:
    """Work out the statistics of ``samples`` (ns, in the order they were taken)."""
    if len(samples) == 0:
        raise BoardError("no latency was sampled; ask for at least one sample")
    ordered = np.sort(samples)
    mean = float(samples.mean())
    return Timings(
        samples_ns=samples,
        percentiles=tuple(percentile_of(ordered, p) for p in _PERCENTILES),
        mean_ms=mean * _MS,
        min_ms=float(ordered[0]) * _MS,
        max_ms=float(ordered[-1]) * _MS,
        cv=float(samples.std()) / mean if mean > 0 else 0.0,
        drift=_drift(samples),
        overhead_ms=overhead_ms,
        warmup_runs=warmup_runs,
        duration_s=duration_s,
    )


def percentile_of(ordered: Samples, percent: float) -> Percentile:
    """Estimate one percentile of ``ordered`` (ascending, ns) as told above, or say why not."""
    count = len(ordered)
    name = f"p{percent:g}"
    discard = _may_exceed(count, 1 - percent / 100)
    if discard < 1:
        needed = samples_needed(percent)
        return Percentile(name, None, None, None, f"{count} samples do not support {name}; it needs {needed}")
    bound = float(ordered[count - discard]) * _MS
    value = float(np.median(ordered)) * _MS if percent == 50 else bound
    low, high = _interval(count, percent / 100)
    return Percentile(name, value, float(ordered[low]) * _MS, max(value, float(ordered[min(high, count - 1)]) * _MS))


def samples_needed(percent: float) -> int:
    """Fewest samples that support a percentile at 99 % confidence."""
    low, high = 1, 1
    while _may_exceed(high, 1 - percent / 100) < 1:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _may_exceed(middle, 1 - percent / 100) >= 1 else (middle, high)
    return high


def timings_head(timings: Timings) -> dict[str, Any]:
    """Everything but the samples, as JSON values."""
    head = asdict(timings)
    del head["samples_ns"]
    return head


def timings_from_head(head: Mapping[str, Any], samples: Samples) -> Timings:
    """Undo `timings_head`; BoardError where the head is not of its kind."""
    try:
        percentiles = tuple(Percentile(**each) for each in head["percentiles"])
        return Timings(**{**head, "percentiles": percentiles, "samples_ns": samples})
    except (TypeError, KeyError):
        raise BoardError("the board answered timings of an unknown form; use equal versions of robustdeploy") from None


def _nothing() -> None:
    pass


def _warm_up(run: Callable[[], None], plan: Plan, clock: Clock) -> int:
    end = clock() + int(plan.warmup_s * 1e9)
    runs = 0
    while runs == 0 or clock() < end:
        run()
        runs += 1
    return runs


def _sample(run: Callable[[], None], min_ns: int, max_ns: int, min_samples: int, clock: Clock) -> Samples:
    """Sample until both minima are met or ``max_ns`` has passed; ``max_ns`` 0 waits for the samples alone."""
    taken: list[int] = []
    first = clock()
    while True:
        before = clock()
        run()
        after = clock()
        taken.append(after - before)
        enough = after - first >= min_ns and len(taken) >= min_samples
        if enough or (max_ns and after - first >= max_ns) or len(taken) >= _MOST_SAMPLES:
            return np.array(taken, np.int64)


def _drift(samples: Samples) -> float | None:
    third = len(samples) // 3
    if third < 10:
        return None
    first = float(np.median(samples[:third]))
    return float(np.median(samples[-third:])) / first - 1 if first > 0 else None


def _cumulative(count: int, share: float) -> npt.NDArray[np.float64]:
    """P(X ≤ k) for k = 0 … count − 1, X binomial; by logarithms, as the first terms are below the smallest float."""
    k = np.arange(1, count)
    steps = np.log((count - k + 1) / k) + np.log(share / (1 - share))
    logs = count * np.log1p(-share) + np.concatenate([[0.0], np.cumsum(steps)])
    return np.cumsum(np.exp(logs))


def _may_exceed(count: int, share: float) -> int:
    """Largest t for which t or fewer of ``count`` samples in the upper ``share`` has a probability of 1 % at most."""
    return int(np.searchsorted(_cumulative(count, share), 1 - _CONFIDENCE, side="right")) - 1


def _interval(count: int, quantile: float) -> tuple[int, int]:
    """Positions (from 0) of two order statistics around ``quantile``; a ``high`` of ``count``: none bounds it."""
    below = _cumulative(count, quantile)
    low = int(np.searchsorted(below, _TAIL, side="right"))
    high = int(np.searchsorted(below, 1 - _TAIL, side="left"))
    return max(low - 1, 0), high
