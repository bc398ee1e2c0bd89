"""The picture of a sweep: robust accuracy over a cost, with the settings that no other one beats joined by a line."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise

from robustdeploy.report.quantity import number, quantity
from robustdeploy.report.svg import STYLES, across, axis, drawing, levels, line, mark, tag, text
from robustdeploy.sweep.table import ROBUST, Figure, Mean, Row, Table

Height = Callable[[float], float]
"""Where a share stands on the vertical axis."""
_TOP, _BOTTOM = 24.0, 300.0
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Distances of the lines behind the marks; the first that leaves few of them is taken."""
_MOST_LINES = 6


def styles_of(table: Table) -> Mapping[str, str]:
    """Give each subject a style of its own, by its place in the table."""
    subjects = dict.fromkeys(row.subject for row in table.rows)
    return {subject: STYLES[index % len(STYLES)] for index, subject in enumerate(subjects)}


def picture(table: Table, cost: Figure, styles: Mapping[str, str]) -> str:
    """Draw every run that has both figures; an empty text where none has."""
    rows = [row for row in table.rows if cost.name in row.found and ROBUST.name in row.found]
    if not rows:
        return ""
    # With room to the right, where the labels of the vertical axis stand.
    dearest = 1.1 * max(row.found[cost.name].high or row.found[cost.name].value for row in rows) or 1.0
    robust = [row.found[ROBUST.name] for row in rows]
    low, high, step = _range(
        [each.value if each.low is None else each.low for each in robust],
        [each.value if each.high is None else each.high for each in robust],
    )

    def place(share: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * (share - low) / (high - low)

    parts = [_run(row, cost, dearest, place, styles[row.subject]) for row in rows]
    unbeaten = table.unbeaten[cost.name]
    lines = [_front(table.means, unbeaten, subject, cost, dearest, place, styles[subject]) for subject in styles]
    labels = [_label(mean, index in unbeaten, cost, dearest, place) for index, mean in enumerate(table.means)]
    told = "; ".join(
        f"{row.cell.name} on {row.subject}: {quantity(row.found[ROBUST.name].value, ROBUST.unit)} at "
        f"{quantity(row.found[cost.name].value, cost.unit)}"
        for row in rows
    )
    count = round((high - low) / step)
    grid = levels([(place(low + i * step), f"{100 * (low + i * step):.0f} %" if i else "") for i in range(count + 1)])
    grid += axis([(share, _tick(share * dearest, cost)) for share in (0.0, 0.25, 0.5, 0.75, 1.0)], _BOTTOM, _BOTTOM + 4)
    title = f"Robust accuracy over {cost.title}"
    return drawing(f"sweep-{cost.name}", title, told, _BOTTOM + 24, grid, *lines, *parts, *filter(None, labels))


def _range(lows: Sequence[float], highs: Sequence[float]) -> tuple[float, float, float]:
    """Return where the vertical axis begins and ends, and the distance of its lines."""
    low, high = min(lows), max(highs)
    step = next((each for each in _STEPS if (high - low) / each <= _MOST_LINES - 1), _STEPS[-1])
    bottom = max(0.0, math.floor(low / step) * step)
    top = min(1.0, math.ceil(high / step) * step)
    return bottom, top if top > bottom else bottom + step, step


def _tick(value: float, cost: Figure) -> str:
    return quantity(value, cost.unit, 0) if cost.unit == "fraction" else f"{number(value)} {cost.unit}"


def _run(row: Row, cost: Figure, dearest: float, place: Height, style: str) -> str:
    x, y = row.found[cost.name], row.found[ROBUST.name]
    at = across(x.value / dearest)
    strokes = []
    if y.low is not None and y.high is not None:
        strokes.append(line(at, place(y.low), at, place(y.high), f"whisker {style}"))
    if x.low is not None and x.high is not None:
        height = place(y.value)
        strokes.append(line(across(x.low / dearest), height, across(x.high / dearest), height, f"whisker {style}"))
    return "".join(strokes) + mark(style, at, place(y.value))


def _front(
    means: Sequence[Mean],
    unbeaten: Collection[int],
    subject: str,
    cost: Figure,
    dearest: float,
    place: Height,
    style: str,
) -> str:
    its = sorted(
        (mean.values[cost.name], mean.values[ROBUST.name])
        for index, mean in enumerate(means)
        if index in unbeaten and mean.subject == subject
    )
    strokes = [
        line(across(x1 / dearest), place(y1), across(x2 / dearest), place(y2), f"stroke {style}")
        for (x1, y1), (x2, y2) in pairwise(its)
    ]
    return tag("g", "".join(strokes)) if strokes else ""


def _label(mean: Mean, unbeaten: bool, cost: Figure, dearest: float, place: Height) -> str:
    if cost.name not in mean.values or ROBUST.name not in mean.values:
        return ""
    share = mean.values[cost.name] / dearest
    words = setting_text(mean.settings) + ("" if unbeaten else ", beaten")
    anchor = "end" if share > 0.7 else "start"
    return text(f"  {words}  ", across(share), place(mean.values[ROBUST.name]) - 8, "note", anchor)


def setting_text(settings: Mapping[str, str]) -> str:
    """Write a setting as ``ops 0.5, lr 0.1``; what varies nothing but the seed is ``as it is``."""
    return ", ".join(f"{field.rpartition('.')[2]} {value}" for field, value in settings.items()) or "as it is"
