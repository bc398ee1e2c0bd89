"""Chart of a training: loss, accuracies on held-out images, and operations, one below the other over the epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from robustdeploy.core.figures import Course, Epoch
from robustdeploy.report.quantity import number, quantity
from robustdeploy.report.svg import across, axis, drawing, levels, line, mark, tag, text

_TALL = 78.0
_ROOM = 0.9
"""Share of the width that epochs take."""


@dataclass(frozen=True)
class _Panel:
    """One curve or two, over the same epochs."""

    title: str
    series: Sequence[tuple[str, Callable[[Epoch], float | None]]]
    """Style and value."""
    share: bool = True
    limit: float | None = None


def course_chart(course: Course | None, ops_target: float) -> str:
    """Draw a training, with its freeze, its rollbacks and the budget; nothing where there is none."""
    if course is None or len(course.epochs) < 2:
        return ""
    budget = ops_target if ops_target < 1 else None
    asked = f", budget {quantity(budget, 'fraction', 0)}" if budget is not None else ""
    panels = [
        _Panel("Loss in training", [("s1", lambda e: e.loss)], share=False),
        _Panel("Held-out images right", [("s2", lambda e: e.clean), ("s1", lambda e: e.attacked)]),
        _Panel(f"Operations{asked}", [("s1", lambda e: e.ops)], limit=budget),
    ]
    first, last = course.epochs[0].epoch, course.epochs[-1].epoch

    def place(epoch: float) -> float:
        # The words of the levels stand to the right.
        return _ROOM * (epoch - first) / ((last - first) or 1)

    events = [(course.frozen, "masks frozen")] if course.frozen is not None else []
    events += [(epoch, "gone back") for epoch in course.rollbacks]
    y, parts, told = 16.0, [], []
    for panel in panels:
        found = [(style, _points(course.epochs, value)) for style, value in panel.series]
        if any(points for _, points in found):
            parts.append(_drawn(panel, found, place, y))
            told += [f"{panel.title}: {_summary(points, panel.share)}" for _, points in found if points]
            y += _TALL + 34
    bottom = y - 26
    for number_, (epoch, words) in enumerate(events):
        at, share = across(place(epoch)), place(epoch)
        parts.append(line(at, 8, at, bottom, "limit"))
        if number_ < 2 or words != events[number_ - 1][1]:
            parts.append(text(f" {words} ", at, 8, "note", "end" if share > 0.6 else "start"))
        told.append(f"{words} at epoch {epoch}")
    ticks = [(_ROOM * share, f"{first + share * (last - first):.0f}") for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    title = "How the training went, over its epochs"
    return drawing("course-chart", title, "; ".join(told), bottom + 24, axis(ticks, 12, bottom), *parts)


def _points(epochs: Sequence[Epoch], value: Callable[[Epoch], float | None]) -> list[tuple[int, float]]:
    return [(each.epoch, found) for each in epochs if (found := value(each)) is not None]


def _drawn(
    panel: _Panel,
    found: Sequence[tuple[str, Sequence[tuple[int, float]]]],
    place: Callable[[float], float],
    y: float,
) -> str:
    most = 1.0 if panel.share else max(value for _, points in found for _, value in points) or 1.0
    top, bottom = y + 14, y + _TALL

    def height(value: float) -> float:
        return bottom - (bottom - top) * max(0.0, min(1.0, value / most))

    ends = [(0.0, "0 %" if panel.share else "0"), (most, "100 %" if panel.share else number(most))]
    parts = [text(panel.title, across(0), y + 4, "row-label"), levels([(height(v), words) for v, words in ends])]
    if panel.limit is not None:
        parts.append(line(across(0), height(panel.limit), across(_ROOM), height(panel.limit), "limit strong"))
    for style, points in found:
        parts += [
            line(across(place(a)), height(u), across(place(b)), height(v), f"stroke {style}")
            for (a, u), (b, v) in pairwise(points)
        ]
        # Where only some epochs were measured, the line alone would pretend to more.
        if len(points) <= 40:
            parts += [mark(style, across(place(epoch)), height(value)) for epoch, value in points]
    return tag("g", *parts)


def _summary(points: Sequence[tuple[int, float]], share: bool) -> str:
    (first, start), (last, end) = points[0], points[-1]
    unit = "fraction" if share else ""
    return f"{quantity(start, unit)} at epoch {first}, {quantity(end, unit)} at epoch {last}"
