"""Scales: which part of an axis is shown, where its ticks stand, and how radii are written on one axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

from robustdeploy.core.report import Measurement

Tick = tuple[float, str]
"""Where on the axis, as a share of it, and the words there."""
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Distances between ticks; the first that leaves few of them is taken."""
_MOST_TICKS = 6
_CHARACTER = 6.2
"""Pixels that a character of a tick takes."""
_NARROW = 330
"""Pixels of the narrowest drawing that a page shows."""


def bounds_of(row: Measurement) -> tuple[float, float]:
    """Return the interval of a row, or its value twice where it has none."""
    return row.value if row.low is None else row.low, row.value if row.high is None else row.high


def zoomed(shares: Sequence[float]) -> tuple[float, float, float]:
    """Return where an axis that shows all ``shares`` begins and ends in [0, 1], and the distance of its ticks."""
    low, high = min(shares), max(shares)
    step = next((each for each in _STEPS if (high - low) / each <= _MOST_TICKS - 1), _STEPS[-1])
    bottom = max(0.0, math.floor(low / step + 1e-9) * step)
    top = min(1.0, math.ceil(high / step - 1e-9) * step)
    return bottom, top if top > bottom else bottom + step, step


def percent_ticks(bottom: float, top: float, step: float) -> list[Tick]:
    """Return the ticks of an axis of shares."""
    count = round((top - bottom) / step)
    return [(index / count, f"{100 * (bottom + index * step):.0f} %") for index in range(count + 1)]


def round_values(top: float) -> list[float]:
    """Return at most six round values from 0 to ``top``, evenly apart, as the ticks of an axis that ends there."""
    unit = 10.0 ** math.floor(math.log10(top / (_MOST_TICKS - 1)))
    step = next(each * unit for each in (1, 2, 2.5, 5, 10) if top / (each * unit) <= _MOST_TICKS - 1)
    return [step * index for index in range(math.floor(top / step + 1e-9) + 1)]


def decades(low: float, high: float, unit: str) -> list[Tick]:
    """Return the ticks of a logarithmic axis: powers of ten, with 2 and 5 between them where there are few."""
    span = math.log10(high / low)
    factors = (1, 2, 5) if span < 2.2 else (1, 3) if span < 3.5 else (1,)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [factor * 10.0**exponent for exponent in exponents for factor in factors]
    inside = [value for value in values if low <= value <= high] or [low]
    return [(math.log10(value / low) / (span or 1), f"{value:g} {unit}") for value in inside]


def radius_texts(radii: Sequence[float]) -> tuple[list[str], str]:
    """Write radii in one unit: all as 255ths where all are whole grey levels, else as decimals; and name the unit."""
    levels = [eps * 255 for eps in radii]
    whole = all(abs(level - round(level)) < 1e-6 for level in levels)
    # 0.2 is 51 grey levels by chance, and radii above 1 are of other norms.
    short = all(abs(1000 * eps - round(1000 * eps)) < 1e-6 for eps in radii)
    if whole and not short and max(radii) <= 1:
        return [str(round(level)) for level in levels], "in 255ths of the range of pixels"
    return [f"{eps:.4g}" for eps in radii], "in pixels of [0, 1]"


def rows_of(ticks: Sequence[Tick]) -> list[int]:
    """Return in which row each label of a tick may stand so that none touches another, even on a narrow page."""
    ends: list[float] = []
    placed = []
    for share, words in ticks:
        half = len(words) * _CHARACTER / 2 / _NARROW
        # At the ends labels are moved inwards.
        start = min(max(share - half, 0), 1 - 2 * half)
        row = next((index for index, end in enumerate(ends) if start > end), len(ends))
        ends[row : row + 1] = [start + 2 * half + 0.012]
        placed.append(row)
    return placed
