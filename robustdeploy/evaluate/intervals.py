"""Intervals: what a count of successes on a finite test set says about the population it was drawn from.

An interval covers sampling error only. Adversarial accuracy stays an upper bound on true robustness: a stronger
attack may always find more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from robustdeploy.onboard.draws import Draws, key

_MOST_SAMPLES = 10**9
_BOOTSTRAP_DRAWS = 2000
BOOTSTRAP = f"bootstrap of the mean, BCa, {_BOOTSTRAP_DRAWS:,} draws, 95 %"
RATIOS = f"bootstrap of the ratios over the images, percentiles, {_BOOTSTRAP_DRAWS:,} draws, 95 %"


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the two-sided exact interval of a proportion: it covers at least ``confidence``, for every n and p.

    Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
    Biometrika 26 (1934).
    """
    _check(successes, n, confidence)
    tail = (1 - confidence) / 2
    return _lower(successes, n, tail), _upper(successes, n, tail)


def clopper_pearson_lower(successes: int, n: int, confidence: float = 0.95) -> float:
    """Return the one-sided exact lower bound of a proportion."""
    _check(successes, n, confidence)
    return _lower(successes, n, 1 - confidence)


def balanced_share(
    successes: Sequence[int], counts: Sequence[int], confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return the mean of several groups' proportions, each counting alike, and its two-sided interval.

    The interval of each group (Clopper-Pearson) is combined as in Zou and Donner, "Construction of confidence limits
    about effect measures: a general approach", Statistics in Medicine 27 (2008), which asks for no normality.
    """
    shares = np.array([s / n for s, n in zip(successes, counts, strict=True)])
    bounds = np.array([clopper_pearson(s, n, confidence) for s, n in zip(successes, counts, strict=True)])
    below, above = (math.sqrt(float(((shares - bounds[:, side]) ** 2).sum())) / len(shares) for side in (0, 1))
    mean = float(shares.mean())
    return mean, max(0.0, mean - below), min(1.0, mean + above)


def paired_difference(
    a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_], confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return ``mean(a) - mean(b)`` for two outcomes on the same images, and its two-sided score interval.

    Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17 (1998). The interval holds every difference that the score test keeps.
    """
    only_a, only_b, n = _discordant(a, b)
    _check(only_a, n, confidence)
    difference = (only_a - only_b) / n
    z = _normal_quantile((1 + confidence) / 2)

    def excess(delta: float) -> float:
        return abs(_tango_score(only_a, only_b, n, delta)) - z

    return difference, _edge(excess, difference, -1.0), _edge(excess, difference, 1.0)


@dataclass(frozen=True, kw_only=True)
class Paired:
    """What became of an accuracy on the same images."""

    n: int
    lost: int
    """Images that were right before alone."""
    gained: int
    difference: float
    """After less before."""
    low: float
    high: float
    """95 % interval of the difference (Tango 1998)."""
    p: float
    """That as many are lost as gained, by McNemar's exact test."""


def paired(before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_]) -> Paired:
    """Compare two outcomes on the same images."""
    lost, gained, n = _discordant(before, after)
    difference, low, high = paired_difference(after, before)
    p = mcnemar_exact(before, after)
    return Paired(n=n, lost=lost, gained=gained, difference=difference, low=low, high=high, p=p)


def bootstrap_mean(
    values: npt.NDArray[np.float64], seed: int, confidence: float = 0.95, draws: int = _BOOTSTRAP_DRAWS
) -> tuple[float, float, float]:
    """Return the mean of ``values`` and its two-sided BCa interval, which allows for a skewed distribution.

    Efron, "Better bootstrap confidence intervals", Journal of the American Statistical Association 82 (1987). The same
    ``seed`` gives the same interval.
    """
    from scipy.special import ndtr

    if not len(values) or not np.isfinite(values).all():
        raise ValueError("a mean needs at least one value, all of them finite")
    mean, centred = float(values.mean()), values - values.mean()
    spread = float(np.square(centred).sum())
    if len(values) == 1 or spread <= len(values) * (1e-12 * abs(mean)) ** 2:
        return mean, mean, mean  # they do not differ
    means = _resampled(values, seed, draws)
    # The bias, and the skewness by the jackknife, which for a mean is in closed form.
    below = (np.sum(means < mean) + np.sum(means == mean) / 2) / draws
    bias = _normal_quantile(min(max(below, 0.5 / draws), 1 - 0.5 / draws))
    skew = float((centred**3).sum()) / (6 * spread**1.5)

    def bound(tail: float) -> float:
        z = bias + _normal_quantile(tail)
        return float(np.quantile(means, ndtr(bias + z / (1 - skew * z))))

    tail = (1 - confidence) / 2
    return mean, min(mean, bound(tail)), max(mean, bound(1 - tail))


def bootstrap_ratios(
    values: npt.NDArray[np.float64], others: npt.NDArray[np.float64], seed: int, draws: int = _BOOTSTRAP_DRAWS
) -> tuple[float, float | None, float | None]:
    """Return the mean over columns of the ratio of two sums, and its two-sided 95 % interval by percentiles.

    Rows are images, the same in both, and are drawn together. There is no interval where so many draws have a divisor
    of 0 that a bound would be infinite. The same ``seed`` gives the same interval.
    """
    if not (others.sum(0) > 0).all():
        raise ValueError("a ratio needs a divisor above 0")

    def ratios(sums: npt.NDArray[np.float64], divisors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        each = np.divide(sums, divisors, out=np.full(sums.shape, np.inf), where=divisors > 0)
        means: npt.NDArray[np.float64] = each.mean(-1)
        return means

    drawn = ratios(_resampled(values, seed, draws), _resampled(others, seed, draws))
    low, high = (float(np.quantile(drawn, share, method="nearest")) for share in (0.025, 0.975))
    value = float(ratios(values.mean(0), others.mean(0)))
    return (value, min(low, value), max(high, value)) if math.isfinite(high) else (value, None, None)


def _resampled(values: npt.NDArray[np.float64], seed: int, draws: int) -> npt.NDArray[np.float64]:
    """Return the means over as many rows of ``values`` as there are, drawn again and again with replacement."""
    means = np.empty((draws, *values.shape[1:]))
    for start in range(0, draws, 100):  # a hundred at a time, since the test set may be large
        ids = np.arange(start, min(start + 100, draws))
        chosen = (Draws(key(seed, "bootstrap"), ids).uniform(0, len(values)) * len(values)).astype(np.int64)
        means[ids] = values[chosen].mean(1)
    return means


def mcnemar_exact(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    """Return the two-sided exact p-value that outcomes ``a`` and ``b`` on the same images are equally often true.

    McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12
    (1947), with the binomial distribution in place of the chi-square approximation.
    """
    # scipy is slow to load, and commands that only read a report need none of it.
    from scipy.stats import binomtest

    only_a, only_b, _ = _discordant(a, b)
    # The test needs discordant pairs. Without any the outcomes are equal, and nothing speaks against it.
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def samples_needed(p: float, limit: float, confidence: float = 0.95) -> int | None:
    """Return about how many samples put ``limit`` outside the two-sided exact interval, should the share stay ``p``.

    None when no affordable number does, because ``p`` is (nearly) on the limit.
    """
    _check(0, 1, confidence)
    if not (0 <= p <= 1 and 0 <= limit <= 1):
        raise ValueError(f"proportions lie in [0, 1], found p={p} and limit={limit}")
    tail = (1 - confidence) / 2

    def decided(n: int) -> bool:
        # p times n is rarely a whole number. The beta quantile takes any, so the bound does not jump from n to n + 1.
        return _lower(p * n, n, tail) >= limit if p >= limit else _upper(p * n, n, tail) < limit

    return least_count(decided, _MOST_SAMPLES)


def least_count(enough: Callable[[int], bool], most: int) -> int | None:
    """Return a count that is enough where one less is not, or None where ``most`` and all its halves are too few."""
    high = 1
    # Doubling first, since what is asked for may need any number.
    while not enough(high):
        high *= 2
        if high > most:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _lower(successes: float, n: int, tail: float) -> float:
    # scipy.stats.binomtest gives the same by a search for the root: in 2 ms instead of 6 µs, for whole counts alone,
    # and with a package that takes a second longer to load.
    from scipy.special import betaincinv

    # The beta distribution behind the bound has no parameter 0; the limit of the bound is 0 there.
    return 0.0 if successes <= 0 else float(betaincinv(successes, n - successes + 1, tail))


def _upper(successes: float, n: int, tail: float) -> float:
    # By symmetry, so that the two bounds of mirrored counts mirror each other exactly.
    return 1.0 - _lower(n - successes, n, tail)


def _tango_score(only_a: int, only_b: int, n: int, delta: float) -> float:
    """Score statistic of the hypothesis that the difference is ``delta``; it falls as ``delta`` grows.

    The share of (not a, b) is put at its maximum-likelihood value under that hypothesis, which solves
    2n·q² + linear·q + constant = 0.
    """
    linear = -only_a - only_b + (2 * n - only_a + only_b) * delta
    constant = -only_b * delta * (1 - delta)
    # Rounding may put the root, or what is under it, a hair below 0.
    q = max(0.0, (math.sqrt(max(0.0, linear**2 - 8 * n * constant)) - linear) / (4 * n))
    variance = n * (2 * q + delta * (1 - delta))
    distance = only_a - only_b - n * delta
    # At the ends of the range no pair may be discordant: any other difference than the observed one is impossible.
    if variance <= 0:
        return math.copysign(math.inf, distance) if abs(distance) > 1e-9 else 0.0
    return distance / math.sqrt(variance)


def _edge(excess: Callable[[float], float], inside: float, outside: float) -> float:
    from scipy.optimize import brentq

    # At -1 and 1 themselves the score is infinite or undefined.
    outermost = outside * (1 - 1e-12)
    if abs(inside) >= 1 and inside * outside > 0:
        return outside
    # The score test keeps even the end of the range, so there is no root to find before it.
    if excess(outermost) <= 0:
        return outside
    # An infinite score far out would stop the root finder; any value above zero says the same.
    return float(brentq(lambda delta: min(excess(delta), 1e6), inside, outermost, xtol=1e-12))


def _discordant(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> tuple[int, int, int]:
    first, second = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"paired outcomes need two rows of equal length, found shapes {first.shape}, {second.shape}")
    return int(np.sum(first & ~second)), int(np.sum(~first & second)), int(first.size)


def _normal_quantile(q: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(q))


def _check(successes: int, n: int, confidence: float) -> None:
    if n < 1:
        raise ValueError(f"an interval needs at least one sample, found n={n}")
    if not 0 <= successes <= n:
        raise ValueError(f"successes lie in 0..n, found {successes} of {n}")
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, found {confidence}")
