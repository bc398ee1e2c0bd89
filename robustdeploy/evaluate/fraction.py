"""Fraction: an engine's time over another's, from runs that took turns.

Each run is divided by its neighbour, so that whatever else the machine did hits both sides. The interval holds the
median of the fractions with 95 % confidence by their order statistics, and asks for no distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from scipy.stats import binom

# Half of the 5 % that a 95 % interval may miss, on either side.
_TAIL = 0.025
LEAST = 6
"""Pairs of runs; with fewer, not even the smallest and the largest hold the median with that confidence."""


@dataclass(frozen=True)
class Fraction:
    """The median of the fractions, and its 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    """Pairs of runs."""


def fraction_of(times: Sequence[float], others: Sequence[float]) -> Fraction:
    """Divide ``times`` by ``others``, pair by pair, all above 0 and in one unit; ValueError with too few pairs."""
    fractions = sorted(one / other for one, other in zip(times, others, strict=True))
    if (count := len(fractions)) < LEAST:
        raise ValueError(f"{count} pairs of runs are too few for an interval; it needs {LEAST}")
    # The largest k with P(fewer than k of n below the median) <= 2.5 %.
    k = int(binom.ppf(_TAIL, count, 0.5))
    if binom.cdf(k - 1, count, 0.5) > _TAIL:
        k -= 1
    return Fraction(median(fractions), fractions[k - 1], fractions[count - k], count)
