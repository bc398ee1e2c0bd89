"""The page of a comparison: two or many runs in one table, with the images that were lost and won."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustdeploy.report.compare import Key, Row
from robustdeploy.report.page import page
from robustdeploy.report.pairing import Flip, ImageChange, Pairing, flips
from robustdeploy.report.quantity import SHARES, points, quantity

_KEY = ("clean_accuracy", "robust_accuracy", "ops_fraction", "params_fraction", "latency_ms.p50", "latency_ms.p99")
"""Metrics that stand above all rows; of robust accuracies the worst case."""
SHOWN = 12
"""Images of each kind that are shown; the ids of all stand beside."""


@dataclass(frozen=True)
class Line:
    """One row of all runs."""

    row: Row
    values: tuple[float | None, ...]
    """One for each run, the first before all others; None where it lacks the row."""
    notes: tuple[str, ...]
    """What must be known of a column, by the name of its run."""
    alike: tuple[bool, ...] = ()
    """For each run but the first, whether its value may be held against that one's."""


def lines_of(pairings: Sequence[Pairing], names: Sequence[str]) -> list[Line]:
    """Join the rows of several runs, each paired with the same first one; ``names`` begins with the first."""
    found: dict[Key, dict[int, Row]] = {}
    for column, each in enumerate(pairings, start=1):
        for row in each.rows:
            found.setdefault(row.key, {})[column] = row
    joined = []
    for rows in found.values():
        first = next(iter(rows.values()))
        before = next((row.before for row in rows.values() if row.before is not None), None)
        afters = (rows[column].after if column in rows else None for column in range(1, len(pairings) + 1))
        notes = tuple(f"{names[column]}: {note}" for column, row in rows.items() if (note := _note(row)))
        alike = tuple(column in rows and rows[column].attacked_alike for column in range(1, len(pairings) + 1))
        joined.append(Line(first, (before, *afters), notes, alike))
    return joined


def _note(row: Row) -> str:
    if row.change is None:
        return ""
    return "not alike" if not row.attacked_alike else "intervals apart" if row.apart else ""


@dataclass(frozen=True)
class _Shown:
    """What one accuracy lost and won, and some of the images."""

    change: ImageChange
    lost: list[Flip]
    won: list[Flip]


def compare_page(pairings: Sequence[Pairing], names: Sequence[str]) -> str:
    """Return one HTML file that needs no script and no network; ``names`` are those of all runs, the first before."""
    sides = [pairings[0].before, *(each.after for each in pairings)]
    lines = lines_of(pairings, names)
    figures = [line for line in lines if line.row.metric in _KEY and line.row.attack in (None, "worst")]
    tables = {"Key figures": list(map(_cells, figures)), "All rows": list(map(_cells, lines))}
    told = [
        (name, each, [_shown(change, each) for change in each.images])
        for name, each in zip(names[1:], pairings, strict=True)
    ]
    return page(
        "compare.html.j2", charts={}, names=names, reports=[side.report for side in sides], tables=tables, told=told
    )


def _cells(line: Line) -> tuple[str, list[tuple[str, str]], str]:
    """Return a row's label, each run's value with its change from the first one, and what must be known."""
    unit, (first, *others) = line.row.unit, line.values
    changes = (_change(first, value, unit) if may else "" for value, may in zip(others, line.alike, strict=True))
    cells = [(_cell(first, unit), ""), *zip((_cell(value, unit) for value in others), changes, strict=True)]
    return line.row.label, cells, "; ".join(line.notes)


def _change(before: float | None, after: float | None, unit: str) -> str:
    if before is None or after is None:
        return ""
    if unit in SHARES:
        return points(after - before)
    return f"{100 * (after / before - 1):+.0f} %".replace("-", "−") if before else ""


def _cell(value: float | None, unit: str) -> str:
    return "–" if value is None else quantity(value, unit, 2)


def _shown(change: ImageChange, pair: Pairing) -> _Shown:
    classes = [str(name) for name in pair.after.report.data.get("classes", ())]
    # Of each attack the ids; images are shown where they tell most, of clean and of the worst case.
    if change.change is None or change.attack not in ("clean", "worst"):
        return _Shown(change, [], [])
    lost, gained = change.change.lost_ids[:SHOWN], change.change.gained_ids[:SHOWN]
    return _Shown(change, flips(change, lost, classes), flips(change, gained, classes))
