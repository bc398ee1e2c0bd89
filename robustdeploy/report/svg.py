"""Draw with SVG elements whose widths are percentages: text keeps its size from a phone to a sheet of paper.

The style sheet of the page colours everything by class, so a drawing follows light, dark and print.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape, quoteattr

from robustdeploy.foreign import one_line

PAD = 0.5
"""Percent of the width kept free on either side, so that marks on the edge are not cut."""


def tag(name: str, *children: str, **attributes: object) -> str:
    """Return one element; ``class_`` becomes ``class`` and underscores become dashes. Children are markup already."""
    written = "".join(f" {key.rstrip('_').replace('_', '-')}={quoteattr(one_line(v))}" for key, v in attributes.items())
    return f"<{name}{written}>{''.join(children)}</{name}>" if children else f"<{name}{written}/>"


def across(share: float) -> str:
    """Return the horizontal place of ``share`` in [0, 1] as a percentage of the drawing's width."""
    return f"{PAD + max(0.0, min(1.0, share)) * (100 - 2 * PAD):.3f}%"


def width(share: float) -> str:
    """Return the length of ``share`` of the drawing's width inside the padding."""
    return f"{max(0.0, min(1.0, share)) * (100 - 2 * PAD):.3f}%"


def text(words: str, x: str, y: float, class_: str = "", anchor: str = "start") -> str:
    """Return a text element; ``words`` are escaped."""
    return tag("text", escape(one_line(words)), x=x, y=f"{y:.1f}", class_=class_, text_anchor=anchor)


def line(x1: str, y1: float, x2: str, y2: float, class_: str) -> str:
    """Return a straight line."""
    return tag("line", x1=x1, y1=f"{y1:.1f}", x2=x2, y2=f"{y2:.1f}", class_=class_)


_SHAPES = {
    "s3": "M0 -5 L5 0 L0 5 L-5 0 Z",
    "s4": "M-4 -4 H4 V4 H-4 Z",
    "s5": "M0 -5 L5 4 H-5 Z",
    "s6": "M0 5 L5 -4 H-5 Z",
}
_FIRST = ("s1", "s2", "s3", "s4", "s5", "s6")
STYLES = (*_FIRST, *(f"{style} other" for style in _FIRST))
"""How series are told apart: the first two are circles, one of them filled. In the others a mark is filled that was
not, and the line is broken."""


def mark(style: str, x: str, y: float) -> str:
    """Return the mark of a series: told apart by shape first, by colour second."""
    shape = style.partition(" ")[0]
    if shape in _SHAPES:
        # A percentage cannot be added to inside a path; a nested drawing puts the origin there instead.
        path = tag("path", d=_SHAPES[shape], class_=f"mark {style}")
        return tag("svg", path, x=x, y=f"{y:.1f}", overflow="visible")
    return tag("circle", cx=x, cy=f"{y:.1f}", r=4.5 if shape == "s1" else 4, class_=f"mark {style}")


def swatch(style: str) -> str:
    """Return a series' line and mark, for a key."""
    inside = line("1", 7, "25", 7, f"whisker {style}") + mark(style, "13", 7)
    return tag("svg", inside, width=26, height=14, aria_hidden="true")


def axis(ticks: Iterable[tuple[float, str]], top: float, bottom: float) -> str:
    """Return vertical grid lines with their labels below; ``ticks`` are (share of the width, label)."""
    parts = []
    for share, label in ticks:
        # Labels at the ends would be cut if they were centred on their lines.
        anchor = "start" if share <= 0.01 else "end" if share >= 0.99 else "middle"
        parts.append(line(across(share), top, across(share), bottom, "grid"))
        parts.append(text(label, across(share), bottom + 16, "tick", anchor))
    return "".join(parts)


def axis_break(x: str, y: float) -> str:
    """Return the mark of an axis that does not begin at 0: two short slanted strokes."""
    strokes = tag("path", d="M-4 5 L0 -5 M1 5 L5 -5", class_="break")
    return tag("svg", strokes, x=x, y=f"{y:.1f}", overflow="visible")


def tick_labels(ticks: Sequence[tuple[float, str]], rows: Sequence[int], y: float) -> str:
    """Return a short stroke below ``y`` at each tick and its label in its row below that."""
    parts = []
    for (share, label), row in zip(ticks, rows, strict=True):
        anchor = "start" if share < 0.03 else "end" if share > 0.97 else "middle"
        parts.append(line(across(share), y, across(share), y + 5 + 13 * row, "base"))
        parts.append(text(label, across(share), y + 17 + 13 * row, "tick", anchor))
    return "".join(parts)


def levels(ticks: Iterable[tuple[float, str]]) -> str:
    """Return horizontal grid lines with their labels standing on the right end; ``ticks`` are (height, label)."""
    return "".join(
        line(across(0), y, across(1), y, "grid") + text(label, across(1), y - 3, "tick", "end") for y, label in ticks
    )


def drawing(identity: str, title: str, description: str, height: float, *parts: str) -> str:
    """Return a whole drawing that screen readers meet as one image with a title and a description."""
    names = tag("title", escape(one_line(title)), id=f"{identity}-title")
    told = tag("desc", escape(one_line(description)), id=f"{identity}-desc")
    return tag(
        "svg",
        names,
        told,
        *parts,
        role="img",
        aria_labelledby=f"{identity}-title {identity}-desc",
        width="100%",
        height=f"{height:.0f}",
        class_="chart",
    )
