"""Timings: what the samples of several windows say of a latency, and no more than they support.

A high percentile of few samples is a guess. As in MLPerf's early stopping (99 % confidence, no tolerance), a percentile
is stated only where the samples support it (64 for p90, 662 for p99, 6,636 for p99.9), and its estimate is the order
statistic that the true percentile stays below with 99 % confidence: a small sample costs, it is never forgiven. The
median is the plain one.

Samples of one window share its noise, so a percentile's interval comes from the windows as well. It holds two order
statistics of all samples together, and two of the windows' own percentiles, each pair around the true one with 95 %
confidence. Neither asks for a distribution. In an unsteady measurement it reaches from the quietest window to the most
disturbed one, since noise only adds time: what lies below it, quiet windows did; what lies above it, no window did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.stats import binom

from robustdeploy.core.percentiles import CONFIDENCE, samples_needed
from robustdeploy.onboard.timing import Nanoseconds

# trtexec warns at 1 %, and the logs that people publish are often well above it.
STEADY_CV = 0.03
"""The threshold of the diagnostic ``latency-valid``, too."""
STEADY_DRIFT = 0.01
# Half of the 5 % that a 95 % interval may miss, on either side.
_TAIL = 0.025
_PERCENTILES = (50.0, 90.0, 99.0, 99.9)
_MS = 1e-6


@dataclass(frozen=True)
class Figure:
    """One figure in its unit with its interval; ``value`` is None where the samples do not support it, and why."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""
    windows: tuple[float, ...] = ()
    """The same figure of each window by itself."""


@dataclass(frozen=True)
class Timings:
    """What follows from all windows together, times in milliseconds."""

    n: int
    percentiles: tuple[Figure, ...]
    mean: Figure
    cv: float
    """Standard deviation over mean."""
    drift: float | None
    """Median of the last third of the samples over that of the first, less 1; None below 30 samples."""
    steady: bool
    """Whether scatter and drift kept within their limits."""

    def percentile(self, name: str) -> Figure:
        """Return the percentile called ``name``, e.g. ``p99``."""
        return next(figure for figure in self.percentiles if figure.name == name)


def timings_from(windows: Sequence[Nanoseconds]) -> Timings:
    """Work out the statistics of ``windows``, each with at least one sample (ns, in the order they were taken)."""
    every = np.concatenate(windows)
    cv, drift = _cv(every), _drift(every)
    steady = cv <= STEADY_CV and abs(drift or 0.0) <= STEADY_DRIFT
    ordered = np.sort(every)
    return Timings(
        n=len(every),
        percentiles=tuple(
            _widened(percentile_of(ordered, p), windows, partial(_own_percentile, percent=p), steady)
            for p in _PERCENTILES
        ),
        mean=_widened(Figure("mean", float(every.mean()) * _MS), windows, _mean_ms, steady),
        cv=cv,
        drift=drift,
        steady=steady,
    )


def percentile_of(ordered: Nanoseconds, percent: float) -> Figure:
    """Estimate one percentile of ``ordered`` (ascending, ns) in ms as told above, or say why not."""
    count = len(ordered)
    name = f"p{percent:g}"
    discard = _may_exceed(count, 1 - percent / 100)
    if discard < 1:
        needed = samples_needed(percent)
        return Figure(name, None, reason=f"{count} samples do not support {name}; it needs {needed}")
    # MLPerf discards the t - 1 largest samples and reports the largest of the rest.
    bound = float(ordered[count - discard]) * _MS
    value = float(np.median(ordered)) * _MS if percent == 50 else bound
    low, high = _around(count, percent / 100)
    return Figure(name, value, float(ordered[low]) * _MS, max(value, float(ordered[min(high, count - 1)]) * _MS))


def _widened(
    pooled: Figure, windows: Sequence[Nanoseconds], figure_of: Callable[[Nanoseconds], float], steady: bool
) -> Figure:
    """Widen the interval of ``pooled`` by what the windows say each by itself."""
    if pooled.value is None:
        return pooled
    own = tuple(map(figure_of, windows))
    last = len(own) - 1
    # Around the median of the windows: half of all windows would lie below the true one.
    low, high = _around(len(own), 0.5) if steady else (0, last)
    together = [bound for bound in (pooled.low, pooled.value, pooled.high) if bound is not None]
    ordered = sorted(own)
    # Both intervals count, and so does the estimate, which as a bound may lie above its own interval.
    lowest, highest = min(ordered[low], *together), max(ordered[min(high, last)], *together)
    return replace(pooled, low=lowest, high=highest, windows=own)


def _own_percentile(window: Nanoseconds, percent: float) -> float:
    """The plain percentile of one window; its own uncertainty is part of what differs between windows."""
    # `higher`, since interpolation would state a time that no sample took.
    found = np.median(window) if percent == 50 else np.quantile(window, percent / 100, method="higher")
    return float(found) * _MS


def _mean_ms(window: Nanoseconds) -> float:
    return float(window.mean()) * _MS


def _cv(samples: Nanoseconds) -> float:
    mean = float(samples.mean())
    return float(samples.std()) / mean if mean > 0 else 0.0


def _drift(samples: Nanoseconds) -> float | None:
    third = len(samples) // 3
    # Medians of a few samples differ by chance, and a warning for that would be noise itself.
    if third < 10:
        return None
    first = float(np.median(samples[:third]))
    return float(np.median(samples[-third:])) / first - 1 if first > 0 else None


def _may_exceed(count: int, share: float) -> int:
    """Largest t for which t or fewer of ``count`` samples in the upper ``share`` has a probability of 1 % at most."""
    # ppf gives the first count that reaches the probability, which is one too far unless it meets it exactly.
    least = int(binom.ppf(1 - CONFIDENCE, count, share))
    return least if binom.cdf(least, count, share) <= 1 - CONFIDENCE else least - 1


def _around(count: int, quantile: float) -> tuple[int, int]:
    """Positions (from 0) of two order statistics around ``quantile``; a ``high`` of ``count``: none bounds it."""
    low = int(binom.ppf(_TAIL, count, quantile))
    if binom.cdf(low, count, quantile) > _TAIL:
        low -= 1
    return max(low, 0), int(binom.ppf(1 - _TAIL, count, quantile))
