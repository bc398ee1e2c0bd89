"""Charts of a report's evidence. Each is a pure function that returns SVG text, or nothing where there is no data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from robustdeploy.core.report import BudgetLine, Histogram, Measurement
from robustdeploy.report.evidence import AttackLine, Curve
from robustdeploy.report.quantity import eps_text, number, quantity
from robustdeploy.report.svg import STYLES, across, axis, drawing, levels, line, mark, tag, text, width

Styles = Mapping[str, str]
"""How each subject is drawn, in the order in which they stand side by side."""
_QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)


def _percent_ticks() -> list[tuple[float, str]]:
    return [(share, f"{100 * share:.0f} %") for share in _QUARTERS]


def _whisker(style: str, row: Measurement, y: float) -> str:
    low, high = (row.value if bound is None else bound for bound in (row.low, row.high))
    return line(across(low), y, across(high), y, f"whisker {style}") + mark(style, across(row.value), y)


def accuracy_chart(lines: Sequence[AttackLine], styles: Styles) -> str:
    """Draw a dot and its interval for every attack and subject, on one axis from 0 to 100 %."""
    if not lines:
        return ""
    parts, y = [], 0.0
    for one in lines:
        y += 20
        parts.append(text(_row_label(one), across(0), y, "row-label"))
        for subject in (name for name in styles if name in one.rows):
            y += 14
            parts.append(_whisker(styles[subject], one.rows[subject], y))
        y += 10
    told = "; ".join(f"{one.label}: " + _told(one.rows.items()) for one in lines)
    # Always from 0 to 100 %: a cut axis would make small differences look large.
    grid = axis(_percent_ticks(), 4, y)
    return drawing("accuracy-chart", "Accuracy under each attack, with intervals", told, y + 24, grid, *parts)


def _row_label(one: AttackLine) -> str:
    return f"{one.label} · {one.kinds}" if one.kinds not in ("", one.label) else one.label


def _told(rows: Iterable[tuple[str, Measurement]]) -> str:
    return ", ".join(f"{subject} {quantity(row.value, row.unit)}" for subject, row in rows)


def curve_chart(curves: Sequence[Curve], eps: float, styles: Styles) -> str:
    """Draw robust accuracy over the attack's radius, with the threat's own radius marked."""
    if not curves:
        return ""
    furthest = max([eps, *_abscissae(curves)]) or 1.0
    share = eps / furthest
    limit = line(across(share), _TOP - 8, across(share), _BOTTOM, "limit")
    anchor = "end" if share > 0.6 else "start"
    note = text(f" ε of the threat, {eps_text(eps)} ", across(share), _TOP - 14, "note", anchor)
    ticks = _eps_ticks(_abscissae(curves), furthest)
    title = "Accuracy over the radius of the attack"
    return _plot(
        "curve-chart", title, curves, styles, lambda x: x / furthest, ticks, lambda x: f"at {eps_text(x)}", limit, note
    )


def queries_chart(curves: Sequence[Curve]) -> str:
    """Draw robust accuracy over the queries per image, each decade as wide as the others."""
    if not curves:
        return ""
    asked = _abscissae(curves)
    decades = math.log(asked[-1] / asked[0]) or 1.0

    def place(queries: float) -> float:
        return math.log(queries / asked[0]) / decades

    # Where two budgets nearly coincide, the larger is told.
    kept = [x for x, after in zip(asked, [*asked[1:], math.inf], strict=True) if after / x > 1.5]
    ticks = [(place(x), f"{x:,.0f}") for x in kept]
    styles = styles_of([curve.subject for curve in curves])
    title = "Accuracy over the queries per image"
    return _plot("queries-chart", title, curves, styles, place, ticks, lambda x: f"after {x:,.0f} queries")


def severities_chart(curves: Sequence[Curve], styles: Styles) -> str:
    """Draw mean accuracy under corruptions over their severity; nothing where that is one."""
    levels = _abscissae(curves)
    if len(levels) < 2:
        return ""

    def place(severity: float) -> float:
        return (severity - levels[0]) / (levels[-1] - levels[0])

    ticks = [(place(x), f"{x:.0f}") for x in levels]
    title = "Accuracy under corruptions over their severity"
    return _plot("severities-chart", title, curves, styles, place, ticks, lambda x: f"at severity {x:.0f}")


_TOP, _BOTTOM = 30.0, 250.0


def _abscissae(curves: Sequence[Curve]) -> list[float]:
    return sorted({x for curve in curves for x, _ in curve.points})


def _plot(
    identity: str,
    title: str,
    curves: Sequence[Curve],
    styles: Styles,
    place: Callable[[float], float],
    ticks: Sequence[tuple[float, str]],
    where: Callable[[float], str],
    *parts: str,
) -> str:
    """Draw curves on a scale from 0 to 100 %; ``place`` gives an abscissa's share of the width, ``where`` its words."""
    drawn = []
    for index, curve in enumerate(curves):
        # Subjects nearly coincide where all is well, so the curves stand a few pixels apart.
        aside = f"translate({8 * (index - (len(curves) - 1) / 2):.1f} 0)"
        drawn.append(tag("g", _curve(curve, place, styles[curve.subject]), transform=aside))
    told = "; ".join(f"{c.subject}: " + ", ".join(_at(row, where(x)) for x, row in c.points) for c in curves)
    # The lowest line needs no label of its own: the last marks stand there.
    scale = [(_height(share), label if share else "") for share, label in _percent_ticks()]
    grid = levels(scale) + axis(ticks, _BOTTOM, _BOTTOM + 4)
    return drawing(identity, title, told, _BOTTOM + 24, grid, *parts, *drawn)


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


def _eps_ticks(radii: Sequence[float], furthest: float) -> list[tuple[float, str]]:
    """Label the measured radii, leaving out those whose labels would touch on a narrow page."""
    kept: list[float] = []
    for eps in reversed(radii):
        if not kept or (kept[-1] - eps) / furthest > 0.16:
            kept.append(eps)
    return [(eps / furthest, eps_text(eps)) for eps in reversed(kept)]


def styles_of(subjects: Sequence[str]) -> Styles:
    """Give each subject a style of its own; from the seventh on they come round again."""
    return {subject: STYLES[index % len(STYLES)] for index, subject in enumerate(subjects)}


def latency_chart(histogram: Histogram | None, percentiles: Sequence[Measurement]) -> str:
    """Draw how often each latency was met, with the reported percentiles marked."""
    if histogram is None or not histogram.counts or len(histogram.edges) != len(histogram.counts) + 1:
        return ""
    start, end = histogram.edges[0], histogram.edges[-1]
    marks = [row for row in percentiles if start <= row.value <= end]
    span, tallest = (end - start) or 1.0, max(histogram.counts) or 1
    top = 26.0 + 15 * len(marks)
    bottom = top + 150
    bars = [
        _bar(left, right, start, span, bottom, 150 * count / tallest)
        for left, right, count in zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False)
        if count
    ]
    notes = [_percentile_mark(row, (row.value - start) / span, 12 + 15 * i, bottom) for i, row in enumerate(marks)]
    ticks = [(share, f"{number(start + share * span)} {histogram.unit}") for share in (0.0, 0.5, 1.0)]
    total, busiest = sum(histogram.counts), histogram.counts.index(tallest)
    told = (
        f"{total:,} samples between {number(start)} and {number(end)} {histogram.unit}; the most, {tallest:,}, lie "
        f"between {number(histogram.edges[busiest])} and {number(histogram.edges[busiest + 1])} {histogram.unit}"
    )
    base = line(across(0), bottom, across(1), bottom, "base")
    grid = levels([(bottom - 150, f"{tallest:,} samples")]) + axis(ticks, bottom, bottom + 4)
    return drawing("latency-chart", "How often each latency was met", told, bottom + 24, grid, *bars, base, *notes)


def _bar(left: float, right: float, start: float, span: float, bottom: float, tall: float) -> str:
    # A bin with anything in it stays visible: rare slow runs are what the tail is about.
    tall = max(1.5, tall)
    return tag(
        "rect",
        x=across((left - start) / span),
        y=f"{bottom - tall:.1f}",
        width=width((right - left) / span),
        height=f"{tall:.1f}",
        class_="bar",
    )


def _percentile_mark(row: Measurement, share: float, y: float, bottom: float) -> str:
    label = f" {row.metric.removeprefix('latency_ms.')} {quantity(row.value, row.unit, 2)} "
    anchor = "end" if share > 0.6 else "start"
    return line(across(share), y - 9, across(share), bottom, "limit") + text(label, across(share), y, "note", anchor)


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
        y += 18
        parts.append(text(f"{name}: {kept} of the dense net", across(0), y, "row-label"))
        parts.append(tag("rect", x=across(0), y=y + 8, width=width(1), height=16, class_="rest"))
        parts.append(tag("rect", x=across(0), y=y + 8, width=width(share), height=16, class_="bar"))
        if target < 1:
            parts.append(line(across(target), y + 3, across(target), y + 30, "limit strong"))
            anchor = "end" if target > 0.6 else "start"
            parts.append(text(f"budget {limit}", across(target), y + 43, "note", anchor))
            y += 16
        told.append(f"{name} {kept} of the dense net's" + (f", budget {limit}" if target < 1 else ""))
        y += 34
    title = "Cost of the compact net beside the dense net"
    return drawing("budget-chart", title, "; ".join(told), math.ceil(y), *parts)
