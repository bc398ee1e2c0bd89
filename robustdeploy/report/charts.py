"""Charts of accuracies and costs. Each is a pure function that returns SVG text, or nothing where there is no data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from robustdeploy.core.report import BudgetLine, Measurement
from robustdeploy.report.evidence import AttackLine, ClassPair, Curve
from robustdeploy.report.quantity import eps_text, quantity
from robustdeploy.report.scale import Tick, bounds_of, percent_ticks, radius_texts, rows_of, zoomed
from robustdeploy.report.svg import (
    STYLES,
    across,
    axis,
    axis_break,
    drawing,
    levels,
    line,
    mark,
    tag,
    text,
    tick_labels,
    width,
)

Styles = Mapping[str, str]
"""How each subject is drawn, in the order in which they stand side by side."""
_QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
_LABELS = 0.31
"""Share of the width that the labels of rows take."""
_AXIS = 0.95 - _LABELS
"""Share of the width that their axis takes; the label of its last tick needs the rest."""
_LONG = 17
"""Characters of a label from which on it stands on a line of its own."""


def styles_of(subjects: Sequence[str]) -> Styles:
    """Give each subject a style of its own; from the thirteenth on they come round again."""
    return {subject: STYLES[index % len(STYLES)] for index, subject in enumerate(subjects)}


def accuracy_axis(lines: Sequence[AttackLine], limits: Mapping[str, float]) -> tuple[float, float, float]:
    """Return where the axis of `accuracy_chart` begins and ends, and the distance of its ticks."""
    shown = [bound for one in lines for row in one.rows.values() for bound in bounds_of(row)]
    return zoomed([*shown, *(limit for label, limit in limits.items() if label in {one.label for one in lines})])


def accuracy_chart(lines: Sequence[AttackLine], styles: Styles, limits: Mapping[str, float] = {}) -> str:
    """Draw a dot and its interval for every attack and subject, zoomed to these; ``limits`` are by attack."""
    if not lines:
        return ""
    bottom, top, step = accuracy_axis(lines, limits)
    place = _placed(bottom, top)
    parts, y = [], 4.0
    for one in lines:
        begin = y
        if len(one.label) > _LONG:
            y += 14
            parts.append(text(one.label, across(0), y, "row-label"))
        drawn = [name for name in styles if name in one.rows]
        if len(one.label) <= _LONG:
            parts.append(text(one.label, across(0), y + 6 * len(drawn) + 6, "row-label"))
        for subject in drawn:
            y += 12
            parts.append(_whisker(styles[subject], one.rows[subject], y, place))
        y += 12
        if one.label in limits:
            at = place(limits[one.label])
            parts.append(line(at, begin + 2, at, y - 3, "limit strong"))
        parts.append(line(across(0), y, across(1), y, "grid"))
    told = "; ".join(f"{one.label}: " + _told(one.rows.items()) for one in lines)
    asked = "".join(f"; limit of {label}: {quantity(limit, 'fraction')}" for label, limit in limits.items())
    ticks = [(_LABELS + _AXIS * share, label) for share, label in percent_ticks(bottom, top, step)]
    grid = axis(ticks, 4, y)
    cut = axis_break(across(_LABELS - 0.02), y) if bottom else ""
    return drawing(
        "accuracy-chart", "Accuracy under each attack, with intervals", told + asked, y + 24, grid, *parts, cut
    )


def _placed(bottom: float, top: float) -> Callable[[float], str]:
    """Return what places a share on an axis that begins right of the labels."""
    return lambda share: across(_LABELS + _AXIS * (share - bottom) / (top - bottom))


def _whisker(style: str, row: Measurement, y: float, place: Callable[[float], str]) -> str:
    low, high = bounds_of(row)
    return line(place(low), y, place(high), y, f"whisker {style}") + mark(style, place(row.value), y)


def _told(rows: Iterable[tuple[str, Measurement]]) -> str:
    return ", ".join(f"{subject} {quantity(row.value, row.unit)}" for subject, row in rows)


def class_chart(pairs: Sequence[ClassPair], style: str, dense_style: str) -> str:
    """Draw each class from its worst case to its clean accuracy, the dense net's below the subject's."""
    if not pairs:
        return ""
    shares = [share for each in pairs for share in (each.clean, each.worst, each.dense_clean, each.dense_worst)]
    bottom, top, step = zoomed([share for share in shares if share is not None])
    place = _placed(bottom, top)
    parts, y = [], 4.0
    for each in pairs:
        y += 13
        parts.append(text(each.name[:24], across(0), y + 5, "row-label"))
        parts.append(_dumbbell(style, each.clean, each.worst, y, place))
        if each.dense_clean is not None and each.dense_worst is not None:
            y += 10
            parts.append(_dumbbell(dense_style, each.dense_clean, each.dense_worst, y, place))
        y += 9
        parts.append(line(across(0), y, across(1), y, "grid"))
    told = "; ".join(str(each) for each in pairs)
    ticks = [(_LABELS + _AXIS * share, label) for share, label in percent_ticks(bottom, top, step)]
    cut = axis_break(across(_LABELS - 0.02), y) if bottom else ""
    return drawing("class-chart", "Accuracy of each class", told, y + 24, axis(ticks, 4, y), *parts, cut)


def _dumbbell(style: str, clean: float, worst: float, y: float, place: Callable[[float], str]) -> str:
    ends = line(place(worst), y, place(clean), y, f"whisker {style}")
    return (
        ends + tag("circle", cx=place(clean), cy=y, r=3.5, class_=f"mark hollow {style}") + mark(style, place(worst), y)
    )


def curve_chart(curves: Sequence[Curve], eps: float, styles: Styles) -> str:
    """Draw robust accuracy over the attack's radius, with the threat's own radius marked and every radius labelled."""
    if not curves:
        return ""
    radii = _abscissae(curves)
    furthest = max([eps, *radii]) or 1.0
    share = _ROOM * eps / furthest
    limit = line(across(share), _TOP - 8, across(share), _BOTTOM, "limit")
    anchor = "end" if share > 0.6 else "start"
    note = text(" ε of the threat ", across(share), _TOP - 14, "note", anchor)
    texts, _ = radius_texts(radii)
    ticks = [(_ROOM * radius / furthest, words) for radius, words in zip(radii, texts, strict=True)]
    title = "Accuracy over the radius of the attack"

    def place(radius: float) -> float:
        return _ROOM * radius / furthest

    return _plot("curve-chart", title, curves, styles, place, ticks, lambda x: f"at {eps_text(x)}", limit, note)


def queries_chart(curves: Sequence[Curve]) -> str:
    """Draw robust accuracy over the queries per image, each decade as wide as the others."""
    if not curves:
        return ""
    asked = _abscissae(curves)
    decades = math.log(asked[-1] / asked[0]) or 1.0

    def place(queries: float) -> float:
        return _ROOM * math.log(queries / asked[0]) / decades

    ticks = [(place(x), f"{x:,.0f}") for x in asked]
    styles = styles_of([curve.subject for curve in curves])
    title = "Accuracy over the queries per image"
    return _plot("queries-chart", title, curves, styles, place, ticks, lambda x: f"after {x:,.0f} queries")


def severities_chart(curves: Sequence[Curve], styles: Styles) -> str:
    """Draw mean accuracy under corruptions over their severity; nothing where that is one."""
    levels = _abscissae(curves)
    if len(levels) < 2:
        return ""

    def place(severity: float) -> float:
        return _ROOM * (severity - levels[0]) / (levels[-1] - levels[0])

    ticks = [(place(x), f"{x:.0f}") for x in levels]
    title = "Accuracy under corruptions over their severity"
    return _plot("severities-chart", title, curves, styles, place, ticks, lambda x: f"at severity {x:.0f}")


_TOP, _BOTTOM = 30.0, 200.0
_ROOM = 0.91
"""Share of the width that curves take; the labels of the levels stand in the rest."""


def _abscissae(curves: Sequence[Curve]) -> list[float]:
    return sorted({x for curve in curves for x, _ in curve.points})


def _plot(
    identity: str,
    title: str,
    curves: Sequence[Curve],
    styles: Styles,
    place: Callable[[float], float],
    ticks: Sequence[Tick],
    where: Callable[[float], str],
    *parts: str,
) -> str:
    """Draw curves on a scale from 0 to 100 %; ``place`` gives an abscissa's share of the width, ``where`` its words."""
    drawn = []
    for index, curve in enumerate(curves):
        # Subjects nearly coincide where all is well, so the curves stand a few pixels apart.
        step = 8 if len(curves) < 3 else 16 / (len(curves) - 1)
        aside = f"translate({step * (index - (len(curves) - 1) / 2):.1f} 0)"
        drawn.append(tag("g", _curve(curve, place, styles[curve.subject]), transform=aside))
    told = "; ".join(f"{c.subject}: " + ", ".join(_at(row, where(x)) for x, row in c.points) for c in curves)
    # The lowest line needs no label of its own: the last marks stand there.
    scale = [(_height(share), f"{100 * share:.0f} %" if share else "") for share in _QUARTERS]
    rows = rows_of(ticks)
    bottom = _BOTTOM + 22 + 13 * max(rows, default=0)
    grid = levels(scale) + tick_labels(ticks, rows, _BOTTOM)
    return drawing(identity, title, told, bottom, grid, *parts, *drawn)


def _at(row: Measurement, where: str) -> str:
    return f"{quantity(row.value, row.unit)} {where}"


def _height(share: float) -> float:
    return _BOTTOM - (_BOTTOM - _TOP) * max(0.0, min(1.0, share))


def _curve(curve: Curve, place: Callable[[float], float], style: str) -> str:
    strokes, marks = [], []
    for (x1, one), (x2, other) in zip(curve.points, curve.points[1:], strict=False):
        ends = across(place(x1)), _height(one.value), across(place(x2)), _height(other.value)
        strokes.append(line(*ends, f"stroke {style}"))
    for x, row in curve.points:
        at = across(place(x))
        if row.low is not None and row.high is not None:
            strokes.append(line(at, _height(row.low), at, _height(row.high), f"whisker {style}"))
        marks.append(mark(style, at, _height(row.value)))
    return "".join(strokes + marks)


def trend_chart(values: Sequence[float]) -> str:
    """Draw a small line through values, the last one marked; its words stand beside it on the page."""
    if len(values) < 2:
        return ""
    low, span = min(values), (max(values) - min(values)) or 1.0
    spots = [(4 + 64 * i / (len(values) - 1), 18 - 14 * (value - low) / span) for i, value in enumerate(values)]
    path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
    dot = tag("circle", cx=f"{spots[-1][0]:.1f}", cy=f"{spots[-1][1]:.1f}", r=2.5, class_="trend-end")
    inside = tag("path", d=path, class_="trend") + dot
    return tag("svg", inside, width=72, height=22, viewBox="0 0 72 22", aria_hidden="true")


def budget_chart(budget: BudgetLine) -> str:
    """Draw what the compact net costs beside the dense net, with the limits of the budget marked."""
    costs = [
        ("Operations", budget.macs, budget.dense_macs, budget.ops_target),
        ("Parameters", budget.params, budget.dense_params, budget.params_target),
        ("Activation memory", budget.memory_bytes, budget.dense_memory_bytes, budget.memory_target),
    ]
    parts, told, y = [], [], 0.0
    for name, compact, dense, target in costs:
        if compact is None or dense is None:
            continue
        share = compact / dense if dense else 0.0
        kept, limit = quantity(share, "fraction"), quantity(target, "fraction")
        asked = f", budget {limit}" if target < 1 else ""
        y += 18
        parts.append(text(f"{name}: {kept}{asked}", across(0), y, "row-label"))
        parts.append(tag("rect", x=across(0), y=y + 8, width=width(1), height=12, class_="rest"))
        parts.append(tag("rect", x=across(0), y=y + 8, width=width(share), height=12, class_="bar"))
        if target < 1:
            parts.append(line(across(target), y + 4, across(target), y + 24, "limit strong"))
        told.append(f"{name} {kept} of the dense net's{asked}")
        y += 26
    title = "Cost of the compact net beside the dense net"
    return drawing("budget-chart", title, "; ".join(told), math.ceil(y), *parts)
