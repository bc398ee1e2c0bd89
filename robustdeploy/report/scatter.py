"""A picture of robust accuracy over a cost: a mark with its intervals for each run, labels, and lines through some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from robustdeploy.core.report import Measurement
from robustdeploy.report.quantity import number, quantity
from robustdeploy.report.scale import bounds_of, round_values, zoomed
from robustdeploy.report.svg import across, axis, drawing, levels, line, mark, tag, text

Spot = tuple[float, float]
"""Cost and accuracy."""
_TOP, _BOTTOM = 24.0, 300.0
_CLOSE = 12.0
"""Height in which two labels would touch."""


@dataclass(frozen=True)
class Point:
    """One run."""

    name: str
    style: str
    cost: Measurement
    robust: Measurement


@dataclass(frozen=True)
class Label:
    """Words at a spot."""

    words: str
    spot: Spot


@dataclass(frozen=True)
class Front:
    """A line from spot to spot."""

    style: str
    spots: Sequence[Spot]


def scatter(
    identity: str, title: str, points: Sequence[Point], labels: Sequence[Label], fronts: Sequence[Front] = ()
) -> str:
    """Draw all of it; an empty text without points."""
    if not points:
        return ""
    # With room to the right, where the labels of the vertical axis stand.
    dearest = 1.1 * max(point.cost.high or point.cost.value for point in points) or 1.0
    low, high, step = zoomed([bound for point in points for bound in bounds_of(point.robust)])

    def place(share: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * (share - low) / (high - low)

    unit = points[0].cost.unit
    told = "; ".join(
        f"{point.name}: {quantity(point.robust.value, point.robust.unit)} at {quantity(point.cost.value, unit)}"
        for point in points
    )
    count = round((high - low) / step)
    grid = levels([(place(low + i * step), f"{100 * (low + i * step):.0f} %" if i else "") for i in range(count + 1)])
    ticks = [(value / dearest, _tick(value, unit)) for value in round_values(dearest)]
    parts = [
        axis(ticks, _BOTTOM, _BOTTOM + 4),
        *(_front(front, dearest, place) for front in fronts),
        *(_drawn(point, dearest, place) for point in points),
        *_labels(labels, dearest, place),
    ]
    return drawing(identity, title, told, _BOTTOM + 24, grid, *filter(None, parts))


def _tick(value: float, unit: str) -> str:
    return f"{100 * value:.3g} %" if unit == "fraction" else f"{number(value)} {unit}"


def _drawn(point: Point, dearest: float, place: Callable[[float], float]) -> str:
    x, y = point.cost, point.robust
    at = across(x.value / dearest)
    strokes = []
    if y.low is not None and y.high is not None:
        strokes.append(line(at, place(y.low), at, place(y.high), f"whisker {point.style}"))
    if x.low is not None and x.high is not None:
        height = place(y.value)
        ends = across(x.low / dearest), height, across(x.high / dearest), height
        strokes.append(line(*ends, f"whisker {point.style}"))
    return "".join(strokes) + mark(point.style, at, place(y.value))


def _front(front: Front, dearest: float, place: Callable[[float], float]) -> str:
    strokes = [
        line(across(x1 / dearest), place(y1), across(x2 / dearest), place(y2), f"stroke {front.style}")
        for (x1, y1), (x2, y2) in pairwise(front.spots)
    ]
    return tag("g", "".join(strokes)) if strokes else ""


def _labels(labels: Sequence[Label], dearest: float, place: Callable[[float], float]) -> list[str]:
    """Write the labels; of several at nearly the same spot the later ones move out of the way of the earlier."""
    made, taken = [], list[Spot]()
    for label in sorted(labels, key=lambda each: -each.spot[1]):
        share, height = label.spot[0] / dearest, place(label.spot[1]) - 8
        # Systems are compared at one budget, so their marks stand above each other.
        while any(abs(share - x) < 0.15 and abs(height - y) < _CLOSE for x, y in taken):
            height += _CLOSE
        taken.append((share, height))
        made.append(text(f"  {label.words}  ", across(share), height, "note", "end" if share > 0.7 else "start"))
    return made
