"""How many test images a statement takes: an interval of a given width, or a regression of a given size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import binom

from robustdeploy.evaluate.intervals import clopper_pearson, least_count

POWER = 0.8
"""Chance that a regression of the size asked for is noticed."""
ALPHA = 0.05
_MOST = 2**24


def images_for_interval(half_width: float, share: float = 0.5) -> int:
    """Return how many images make an exact 95 % interval reach at most ``half_width`` to either side of ``share``.

    A share of one half is the widest case. Raises ValueError for a width outside (0, 0.5) or a share outside [0, 1].
    """
    _check(half_width, share)

    def wide(n: int) -> bool:
        low, high = clopper_pearson(round(share * n), n)
        return max(high - round(share * n) / n, round(share * n) / n - low) > half_width

    return _least(lambda n: not wide(n))


def images_for_drop(drop: float, gained: float = 0.0) -> int:
    """Return how many images let McNemar's exact test notice a ``drop``, where ``gained`` are right afterwards alone.

    Two builds of one net are judged on the same images; ``drop + gained`` are then the share that is lost. The test is
    two-sided at 5 %, and notices it with a chance of 80 %. Raises ValueError where the shares cannot be.
    """
    _check(drop, gained)
    if drop + 2 * gained > 1:
        raise ValueError("more images would change than there are")
    return _least(lambda n: power(n, drop, gained) >= POWER)


def power(n: int, drop: float, gained: float = 0.0) -> float:
    """Return the chance that McNemar's exact test at 5 % notices a drop on ``n`` images."""
    moved = drop + 2 * gained
    # Beyond these counts lies less than a millionth.
    few, many = (int(binom.ppf(q, n, moved)) for q in (1e-7, 1 - 1e-7))
    counts = np.arange(max(1, few), many + 1)
    # The most images that may be gained, of so many that moved, for p below 5 %.
    critical = binom.ppf(ALPHA / 2, counts, 0.5) - 1
    told = binom.cdf(critical, counts, gained / moved)
    return float((binom.pmf(counts, n, moved) * np.where(critical >= 0, told, 0.0)).sum())


def _least(enough: Callable[[int], bool]) -> int:
    if (count := least_count(enough, _MOST)) is None:
        raise ValueError(f"more than {_MOST:,} images would be needed")
    return count


def _check(size: float, share: float) -> None:
    if not 0 < size < 0.5 or not 0 <= share <= 1:
        raise ValueError(f"a size lies between 0 and 0.5 and a share in [0, 1], found {size} and {share}")
