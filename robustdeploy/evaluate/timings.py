"""Timings: what the samples of several runs say of a latency, and no more than they support.

A high percentile of few samples is a guess. As in MLPerf's early stopping (99 % confidence, no tolerance), a percentile
is stated only where the samples support it (64 for p90, 662 for p99, 6,636 for p99.9), and its estimate is the order
statistic that the true percentile stays below with 99 % confidence: a small sample costs, it is never forgiven. The
median is the plain one.

Samples of one run share its noise, so a percentile's interval comes from the runs as well. It holds two order
statistics of all samples together, and two of the runs' own percentiles, each pair around the true one with 95 %
confidence. Neither asks for a distribution. In an unsteady measurement it reaches from the quietest run to the most
disturbed one, since noise only adds time: what lies below it, quiet runs did; what lies above it, no run did. Where
every run was disturbed, nobody knows what a quiet one would have done, but that no call was quicker than the quickest.
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
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
_MS = 1e-6


@dataclass(frozen=True)
class Figure:
    """One figure in its unit with its interval; ``value`` is None where the samples do not support it, and why."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""
    runs: tuple[float, ...] = ()
    """The same figure of each run by itself."""


@dataclass(frozen=True)
class Timings:
    """What follows from all runs together, times in milliseconds."""

    n: int
    percentiles: tuple[Figure, ...]
    mean: Figure
    cv: float
    """Standard deviation over mean."""
    drift: float | None
    """Median of the last third of the samples over that of the first, less 1; None below 30 samples."""
    steady: bool
    """Whether scatter and drift kept within their limits."""
    undisturbed: int
    """Runs beside which the board did little else."""

    def percentile(self, name: str) -> Figure:
        """Return the percentile called ``name``, e.g. ``p99``."""
        return next(figure for figure in self.percentiles if figure.name == name)


def timings_from(runs: Sequence[Nanoseconds], quiet: Sequence[bool] | None = None) -> Timings:
    """Work out the statistics of ``runs``, each with at least one sample (ns, in the order they were taken).

    ``quiet`` says of each whether the board did little else meanwhile; all of them, if not given.
    """
    every = np.concatenate(runs)
    cv, drift = _cv(every), _drift(every)
    steady = cv <= STEADY_CV and abs(drift or 0.0) <= STEADY_DRIFT
    undisturbed = [True] * len(runs) if quiet is None else list(quiet)
    ordered = np.sort(every)

    def widened(pooled: Figure, figure_of: Callable[[Nanoseconds], float]) -> Figure:
        wide = _widened(pooled, runs, figure_of, steady)
        if steady or wide.low is None or wide.value is None or all(undisturbed):
            return wide
        still = [own for own, is_quiet in zip(wide.runs, undisturbed, strict=True) if is_quiet]
        # A quiet run may be slower than most disturbed ones, and an interval holds its own figure.
        return replace(wide, low=min(*still, wide.value) if still else min(wide.low, float(ordered[0]) * _MS))

    return Timings(
        n=len(every),
        percentiles=tuple(widened(percentile_of(ordered, p), partial(_own_percentile, percent=p)) for p in PERCENTILES),
        mean=widened(Figure("mean", float(every.mean()) * _MS), _mean_ms),
        cv=cv,
        drift=drift,
        steady=steady,
        undisturbed=sum(undisturbed),
    )


def over_runs(name: str, values: Sequence[float]) -> Figure:
    """Return the median of one value per run, from the lowest to the highest of them."""
    return Figure(name, float(np.median(values)), min(values), max(values), runs=tuple(values))


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
    pooled: Figure, runs: Sequence[Nanoseconds], figure_of: Callable[[Nanoseconds], float], steady: bool
) -> Figure:
    """Widen the interval of ``pooled`` by what the runs say each by itself."""
    if pooled.value is None:
        return pooled
    own = tuple(map(figure_of, runs))
    last = len(own) - 1
    # Around the median of the runs: half of all runs would lie below the true one.
    low, high = _around(len(own), 0.5) if steady else (0, last)
    together = [bound for bound in (pooled.low, pooled.value, pooled.high) if bound is not None]
    ordered = sorted(own)
    # Both intervals count, and so does the estimate, which as a bound may lie above its own interval.
    lowest, highest = min(ordered[low], *together), max(ordered[min(high, last)], *together)
    return replace(pooled, low=lowest, high=highest, runs=own)


def _own_percentile(run: Nanoseconds, percent: float) -> float:
    """The plain percentile of one run; its own uncertainty is part of what differs between runs."""
    # `higher`, since interpolation would state a time that no sample took.
    found = np.median(run) if percent == 50 else np.quantile(run, percent / 100, method="higher")
    return float(found) * _MS


def _mean_ms(run: Nanoseconds) -> float:
    return float(run.mean()) * _MS


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
