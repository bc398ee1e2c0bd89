"""The table of a sweep, made of its runs' reports alone, and which of its settings no other one beats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from robustdeploy.core.gate import Outcome
from robustdeploy.core.metrics import METRICS
from robustdeploy.core.report import Measurement, Report
from robustdeploy.core.subject import selects
from robustdeploy.series.series import report_in
from robustdeploy.sweep.cells import Cell
from robustdeploy.sweep.folder import SweepFolder

SEED: Final = "seed"
"""What differs between repetitions of one setting."""


@dataclass(frozen=True)
class Figure:
    """A column of the table."""

    name: str
    title: str
    metric: str
    attack: str | None = None

    @property
    def unit(self) -> str:
        """Of its values."""
        return METRICS[self.metric].unit


ROBUST = Figure("worst", "robust, worst case", "robust_accuracy", "worst")
COSTS = (
    Figure("p50", "latency, median", "latency_ms.p50"),
    Figure("ops", "operations", "ops_fraction"),
    Figure("energy", "energy of an image", "energy_mj"),
)
"""What robust accuracy is set against, each in a picture of its own."""
FIGURES = (
    Figure("clean", "clean", "clean_accuracy"),
    ROBUST,
    *COSTS,
    Figure("params", "parameters", "params_fraction"),
    Figure("p99", "latency, p99", "latency_ms.p99"),
    Figure("fraction", "latency over the dense net's", "latency_fraction"),
)


@dataclass(frozen=True)
class Row:
    """One subject of one run."""

    cell: Cell
    subject: str
    outcome: Outcome
    warnings: int
    found: Mapping[str, Measurement]
    """By the figure's name; what was not measured is missing."""


@dataclass(frozen=True)
class Mean:
    """One subject under one setting, over its seeds."""

    settings: Mapping[str, str]
    subject: str
    cells: tuple[str, ...]
    values: Mapping[str, float]
    """Means, of the figures that every seed has."""
    spread: Mapping[str, tuple[float, float]]
    """Least and largest."""


@dataclass(frozen=True)
class Table:
    """Everything that the page and the table show."""

    rows: tuple[Row, ...]
    means: tuple[Mean, ...]
    missing: Mapping[str, str]
    """Cells without a report, and why."""

    @property
    def unbeaten(self) -> dict[str, frozenset[int]]:
        """By the cost's name: which of the means no other one of the same target beats or equals in both."""
        return {cost.name: frozenset(_unbeaten(self.means, cost)) for cost in COSTS}


def table_of(folder: SweepFolder) -> Table:
    """Read the reports of all cells."""
    rows: list[Row] = []
    missing = {}
    for cell in folder.asked.cells:
        report, why = report_in(folder.run_of(cell), folder.root)
        if report is None:
            missing[cell.name] = why
        else:
            rows += _rows(cell, report)
    return Table(tuple(rows), means_of(rows), missing)


def _rows(cell: Cell, report: Report) -> Iterable[Row]:
    outcomes = {each.subject: each.outcome for each in report.verdict.subjects}
    for subject in dict.fromkeys(each.subject for each in report.deployed):
        if not selects(None, subject, report.net):
            continue  # the dense net beside it is not what the settings are about
        its = {(row.metric, row.attack): row for row in reversed(report.measurements) if row.subject == subject}
        found = {each.name: its[key] for each in FIGURES if (key := (each.metric, each.attack)) in its}
        outcome = outcomes.get(subject, report.verdict.outcome)
        yield Row(cell, subject, outcome, len(report.verdict.warnings), found)


def means_of(rows: Sequence[Row]) -> tuple[Mean, ...]:
    """Put the rows of one setting and subject together, whatever their seed."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        setting = tuple((field, value) for field, value in row.cell.settings.items() if field != SEED)
        groups.setdefault((setting, row.subject), []).append(row)
    made = []
    for (setting, subject), its in groups.items():
        every = [name for name in its[0].found if all(name in row.found for row in its)]
        values = {name: [row.found[name].value for row in its] for name in every}
        made.append(
            Mean(
                settings=dict(setting),
                subject=subject,
                cells=tuple(row.cell.name for row in its),
                values={name: sum(each) / len(each) for name, each in values.items()},
                spread={name: (min(each), max(each)) for name, each in values.items()},
            )
        )
    return tuple(made)


def _unbeaten(means: Sequence[Mean], cost: Figure) -> Iterable[int]:
    for index, mean in enumerate(means):
        others = [each for i, each in enumerate(means) if i != index and each.subject == mean.subject]
        if _has(mean, cost) and not any(_beats(other, mean, cost) for other in others if _has(other, cost)):
            yield index


def _has(mean: Mean, cost: Figure) -> bool:
    return cost.name in mean.values and ROBUST.name in mean.values


def _beats(one: Mean, other: Mean, cost: Figure) -> bool:
    """Whether ``one`` costs no more and is no less robust, and better in one of them."""
    mine, theirs = ((each.values[cost.name], -each.values[ROBUST.name]) for each in (one, other))
    return mine != theirs and mine[0] <= theirs[0] and mine[1] <= theirs[1]


def document(table: Table) -> dict[str, Any]:
    """Return the table as JSON values."""
    unbeaten = table.unbeaten
    return {
        "schema_version": 1,
        "rows": [
            {
                "run": row.cell.name,
                "settings": row.cell.settings,
                "subject": row.subject,
                "outcome": row.outcome.value,
                "warnings": row.warnings,
                "figures": {name: _figure(found) for name, found in row.found.items()},
            }
            for row in table.rows
        ],
        "means": [
            {
                "settings": dict(mean.settings),
                "subject": mean.subject,
                "runs": list(mean.cells),
                "values": dict(mean.values),
                "least_and_largest": {name: list(both) for name, both in mean.spread.items()},
                "unbeaten_by": [cost for cost, which in unbeaten.items() if index in which],
            }
            for index, mean in enumerate(table.means)
        ],
        "missing": dict(table.missing),
    }


def _figure(row: Measurement) -> dict[str, Any]:
    return {"value": row.value, "low": row.low, "high": row.high, "unit": row.unit, "n": row.n}
