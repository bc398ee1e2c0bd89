"""Percentiles: how many samples it takes to state one at 99 % confidence."""

from __future__ import annotations

import math

CONFIDENCE = 0.99


def samples_needed(percent: float) -> int:
    """Return the fewest samples of which two or more lie above the percentile, but for a chance of 1 % at most.

    One of them is discarded and the other bounds the percentile, as in MLPerf's early stopping without tolerance: 64
    for p90, 662 for p99 and 6,636 for p99.9.
    """
    share = 1 - percent / 100
    low, high = 1, 2
    while not _supported(high, share):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _supported(middle, share) else (middle, high)
    return high


def _supported(count: int, share: float) -> bool:
    none = math.exp(count * math.log1p(-share))
    one = count * share * math.exp((count - 1) * math.log1p(-share))
    return none + one <= 1 - CONFIDENCE
