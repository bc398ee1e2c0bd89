"""Charts of latency: how often each time was met, on a logarithmic axis, the dense net's below the pruned net's."""

from __future__ import annotations

import math
from collections.abc import Sequence

from robustdeploy.core.report import Histogram, Measurement
from robustdeploy.report.quantity import number, quantity
from robustdeploy.report.scale import decades
from robustdeploy.report.svg import across, axis, drawing, line, tag, text, width

_ROOM = 0.78
"""Share of the width that times take; words about the slowest need the rest."""
_TALL = 64.0
_ROW = 14.0


def latency_chart(
    identity: str, subject: str, histogram: Histogram, percentiles: Sequence[Measurement], dense: Histogram | None
) -> str:
    """Draw the times of a subject with its percentiles, the dense net's below them; nothing without times."""
    shown = [each for each in (histogram, dense) if each is not None and _is_whole(each)]
    if histogram not in shown:
        return ""
    low = max(min(each.edges[0] for each in shown), 1e-9)
    high = max(max(each.edges[-1] for each in shown), low * 1.01)
    scale = _Scale(low, high)
    marks = sorted((row for row in percentiles if low <= row.value <= high), key=lambda row: row.value)
    y = 8 + _ROW * (len(marks) + 1)
    parts = []
    # The leftmost stands highest: every line then passes left of the words below it.
    for index, row in enumerate(marks):
        at, top = scale.at(row.value), 12 + _ROW * (index + 1)
        parts.append(line(at, top - 8, at, y + _TALL, "limit"))
        parts.append(text(f" {row.metric.partition('.')[2]} {quantity(row.value, row.unit, 2)}", at, top, "note"))
    panels = []
    for index, (each, name) in enumerate(zip(shown, (subject, "dense net, in turns with it"), strict=False)):
        y += index * (_ROW + 4)
        # The first name stands above the percentiles: no line may cross it.
        panels.append(text(name, across(0), y - 4 if index else 11, "row-label"))
        panels.append(_bars(each, scale, y + _TALL))
        y += _TALL
    told = "; ".join(_told(each, name) for each, name in zip(shown, (subject, "dense net"), strict=False))
    ticks = [(_ROOM * share, words) for share, words in decades(low, high, histogram.unit)]
    grid = axis(ticks, 6, y)
    return drawing(identity, "How often each latency was met", told, y + 24, grid, *panels, *parts)


def _is_whole(histogram: Histogram) -> bool:
    return bool(histogram.counts) and len(histogram.edges) == len(histogram.counts) + 1


class _Scale:
    def __init__(self, low: float, high: float) -> None:
        self._low, self._decades = low, math.log(high / low)

    def share(self, value: float) -> float:
        """Return where a time stands, as a share of the width."""
        return _ROOM * max(0.0, math.log(max(value, self._low) / self._low)) / self._decades

    def at(self, value: float) -> str:
        return across(self.share(value))


def _bars(histogram: Histogram, scale: _Scale, bottom: float) -> str:
    tallest = max(histogram.counts) or 1
    bars = []
    for left, right, count in zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False):
        if count:
            # A bin with anything in it stays visible: rare slow runs are what the tail is about.
            tall = max(1.5, _TALL * count / tallest)
            start, end = scale.share(left), scale.share(right)
            box = {"x": across(start), "width": width(max(end - start, 0.002))}
            bars.append(tag("rect", **box, y=f"{bottom - tall:.1f}", height=f"{tall:.1f}", class_="bar"))
    return "".join(bars) + line(across(0), bottom, across(_ROOM), bottom, "base")


def _told(histogram: Histogram, name: str) -> str:
    busiest = histogram.counts.index(max(histogram.counts))
    low, high = histogram.edges[busiest], histogram.edges[busiest + 1]
    return (
        f"{name}: {sum(histogram.counts):,} samples between {number(histogram.edges[0])} and "
        f"{number(histogram.edges[-1])} {histogram.unit}; the most, {max(histogram.counts):,}, lie between "
        f"{number(low)} and {number(high)} {histogram.unit}"
    )
