"""What a comparison found, beside its runs: as a page, as Markdown and as JSON, each made from the runs alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from robustdeploy.comparing.folder import TableFolder
from robustdeploy.comparing.found import Found
from robustdeploy.comparing.table import DENSE, Beside, Line, Pair, Table
from robustdeploy.core.files import atomic_write_json, atomic_write_text
from robustdeploy.core.report import Measurement
from robustdeploy.evaluate.paired import CLEAN, WORST
from robustdeploy.foreign import one_line
from robustdeploy.report.page import page
from robustdeploy.report.quantity import quantity
from robustdeploy.report.scatter import Label, Point, scatter
from robustdeploy.report.svg import STYLES

PAGE, MARKDOWN, JSON = "table.html", "table.md", "table.json"
_NOTES = (
    "Accuracies in % with 95 % Clopper-Pearson intervals on the same test images, on the deployed file; `worst` is per "
    "image over all attacks. Differences are in points, paired by image, with Tango's 95 % interval; p is McNemar's "
    "exact test, for each pair by itself and not corrected for their number.",
    "Passes are images sent forward and back while training, attacks and what a row begins with included; behind a + "
    "are those of a search before it, which rows need not have in common. MACs and parameters are those that are not "
    "0; zeros save no time on a dense runtime, so only smaller nets have a latency.",
)


def write_results(folder: TableFolder, table: Table, at_once: int = 1) -> Path:
    """Write all three, and return the page."""
    atomic_write_json(folder.root / JSON, document(folder, table))
    atomic_write_text(folder.root / MARKDOWN, "\n".join(_markdown(folder, table, at_once)) + "\n")
    atomic_write_text(folder.root / PAGE, _html(folder, table, at_once))
    return folder.root / PAGE


def notes_of(at_once: int) -> tuple[str, ...]:
    """Return what a reader must know of the figures."""
    beside = f"{at_once} runs were made side by side, which disturbs latency; time it again by itself."
    return (*_NOTES, beside) if at_once > 1 else _NOTES


def head_of(table: Table) -> list[str]:
    """Return the columns' titles."""
    return [
        *("row", "from", "epochs", "removed", "MACs", "parameters", "KiB", "passes", "time"),
        *(CLEAN, *table.attacks, WORST),
        *table.distances,
        *(f"vulnerability, {name}" for name in table.vulnerabilities),
        *("Δ dense", "Δ against", "credibility", "p50", "published"),
    ]


NUMBERS = range(4, 9)
"""Of these columns, those that are numbers."""


def cells_of(table: Table, line: Line) -> list[str]:
    """Return a line's cells under that head."""
    found = line.found
    return [
        found.run.row + (f", seed {found.run.seed}" if found.run.seed else ""),
        line.row.system or "-",
        found.spent.phases,
        _removed(line),
        f"{quantity(found.nonzero_macs / found.record.dense_macs, 'fraction', 2)}",
        f"{quantity(found.nonzero_params / found.record.dense_params, 'fraction', 2)}",
        f"{found.file_kib:,.0f}",
        _passes(found),
        "-" if found.spent.seconds is None else _duration(found.spent.seconds),
        *(_share(found.measured.get(name)) for name in (CLEAN, *table.attacks, WORST)),
        *(_mean(found.distances.get(name)) for name in table.distances),
        *(_mean(found.vulnerability.get(name)) for name in table.vulnerabilities),
        _pair(line.to_dense.get(WORST)),
        _pair(line.against.get(WORST), named=True),
        "; ".join(found.flags) or (found.credibility.credibility.value if found.credibility else "-"),
        "-" if found.p50 is None else quantity(found.p50.value, found.p50.unit),
        "; ".join(map(published_text, line.published)) or "-",
    ]


def _passes(found: Found) -> str:
    if found.spent.passes is None:
        return "-"
    searched = f" + {found.spent.search:,.0f}" if found.spent.search else ""
    return f"{found.spent.passes:,.0f}{searched}"


def _removed(line: Line) -> str:
    if line.track == DENSE:
        return "nothing"
    if not line.found.record.removes_channels:
        return "weights"
    units = _units(line.found)
    return "channels" if units is None else f"channels, {quantity(1 - units, 'fraction')} of the units"


def _units(found: Found) -> float | None:
    """Return the share of the units that is left, where they were counted."""
    rows = (row for row in found.report.measurements if row.metric == "units_fraction" and row.subject == found.subject)
    return next((row.value for row in rows), None)


def _share(row: Measurement | None) -> str:
    if row is None:
        return "-"
    low, high = (row.value if bound is None else bound for bound in (row.low, row.high))
    return f"{100 * row.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _mean(row: Measurement | None) -> str:
    if row is None:
        return "-"
    value, low, high = (quantity(row.value if each is None else each, "") for each in (row.value, row.low, row.high))
    return f"{value} [{low}, {high}] {row.unit}, n = {row.n:,}"


def _pair(pair: Pair | None, *, named: bool = False) -> str:
    if pair is None:
        return "-"
    told = f"{100 * pair.difference:+.1f} [{100 * pair.low:+.1f}, {100 * pair.high:+.1f}], p {pair.p:.2g}"
    return f"{told} ({pair.other})" if named else told


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{seconds / 60:.1f} min"


def published_text(beside: Beside) -> str:
    """Write a published row as ``72.88 / 34.33``, with its protocol and what of that is not ours."""
    values = beside.row.values
    pair = " / ".join(f"{values[name]:g}" for name in (CLEAN, "robust") if name in values)
    differs = f"; other: {', '.join(beside.differs)}" if beside.differs else ""
    return f"{pair or 'no accuracy'} ({beside.row.name}, {beside.row.protocol}{differs})"


def _markdown(folder: TableFolder, table: Table, at_once: int) -> Iterator[str]:
    yield f"# {one_line(folder.name)}"
    yield ""
    yield one_line(folder.comparison.description)
    for note in notes_of(at_once):
        yield ""
        yield note
    for track, lines in table.tracks.items():
        yield from ("", f"## {one_line(track)}", "")
        yield from _rows([head_of(table), *(cells_of(table, line) for line in lines)])
    if table.apart:
        yield from ("", "## Not alike", "", "These rows differ in what all must have in common; they rank nowhere.", "")
        yield from _rows([head_of(table), *(cells_of(table, line) for line in table.apart)])
        yield ""
        yield from (f"- {one_line(line.found.run.row)}: {one_line('; '.join(line.differs))}" for line in table.apart)
    if table.means:
        yield from ("", "## Over the seeds", "")
        attacks = [name for name in (CLEAN, *table.attacks, WORST) if all(name in mean.values for mean in table.means)]
        rows = [["row", "seeds", *attacks]]
        for mean in table.means:
            spreads = [mean.values[name] for name in attacks]
            cells = [f"{100 * each:.1f} ({100 * low:.1f} to {100 * high:.1f})" for each, low, high in spreads]
            rows.append([mean.row, ", ".join(map(str, mean.seeds)), *cells])
        yield from _rows(rows)
    if table.missing:
        yield ""
    for name, why in table.missing.items():
        yield f"- {one_line(name)} has no row: {one_line(why)}"


def _rows(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (rows[0], ["---"] * len(rows[0]), *rows[1:]):
        yield f"| {' | '.join(one_line(cell).replace('|', '/') for cell in row)} |"


def _styles(table: Table) -> dict[str, str]:
    return {track: STYLES[index % len(STYLES)] for index, track in enumerate(table.tracks)}


def pictures(table: Table) -> dict[str, str]:
    """Draw robust accuracy over what is left: MACs and parameters that are not 0."""
    styles = _styles(table)
    drawn = {}
    for cost, title in (("macs", "MACs that are not 0"), ("params", "parameters that are not 0")):
        points = [
            Point(line.found.run.name, styles[track], _cost(line.found, cost), line.found.measured[WORST])
            for track, lines in table.tracks.items()
            for line in lines
            if WORST in line.found.measured
        ]
        labels = [
            Label(line.found.run.row, (_cost(line.found, cost).value, line.found.measured[WORST].value))
            for line in table.alike
            if WORST in line.found.measured
        ]
        drawn[cost] = scatter(f"table-{cost}", f"Robust accuracy over {title}", points, labels)
    return drawn


def _cost(found: Found, cost: str) -> Measurement:
    kept, dense = (
        (found.nonzero_macs, found.record.dense_macs)
        if cost == "macs"
        else (found.nonzero_params, found.record.dense_params)
    )
    return Measurement(metric=cost, subject=found.subject, value=kept / dense, unit="fraction", n=1)


def _html(folder: TableFolder, table: Table, at_once: int) -> str:
    head = head_of(table)
    content: dict[str, Any] = {
        "name": folder.name,
        "description": folder.comparison.description,
        "notes": [note.replace("`", "") for note in notes_of(at_once)],
        "missing": table.missing,
        "head": head,
        "tracks": {name: [_shown(table, line) for line in lines] for name, lines in table.tracks.items()},
        "apart": [_shown(table, line) for line in table.apart],
        "styles": _styles(table),
        "means": table.means,
        "attacks": (CLEAN, *table.attacks, WORST),
    }
    return page("table.html.j2", charts=pictures(table), **content)


def _shown(table: Table, line: Line) -> dict[str, Any]:
    return {
        "run": line.found.run.name,
        # The last one is shown as what others reported, greyed where their protocol is another.
        "cells": cells_of(table, line)[1:-1],
        "name": cells_of(table, line)[0],
        "published": [(published_text(each), bool(each.differs)) for each in line.published],
        "differs": line.differs,
    }


def document(folder: TableFolder, table: Table) -> dict[str, Any]:
    """Return the table as JSON values; what a clock decided stands under ``timed``."""
    return {
        "schema_version": 1,
        "name": folder.comparison.name,
        "attacks": list(table.attacks),
        "lines": [_line(line) for line in table.lines],
        "means": [
            {"row": mean.row, "seeds": list(mean.seeds), "values": {name: list(v) for name, v in mean.values.items()}}
            for mean in table.means
        ],
        "missing": dict(table.missing),
    }


def _line(line: Line) -> dict[str, Any]:
    found = line.found
    return {
        "run": found.run.name,
        "row": found.run.row,
        "system": line.row.system,
        "seed": found.run.seed,
        "track": line.track,
        "alike": not line.differs,
        "differs": list(line.differs),
        "epochs": found.spent.phases,
        "asked": line.asked.amounts,
        "macs": found.nonzero_macs,
        "dense_macs": found.record.dense_macs,
        "params": found.nonzero_params,
        "dense_params": found.record.dense_params,
        "file_kib": round(found.file_kib, 1),
        "passes": found.spent.passes,
        "search_passes": found.spent.search,
        "accuracy": {name: _measured(row) for name, row in found.measured.items()},
        "distances": {name: _measured(row) for name, row in found.distances.items()},
        "vulnerability": {name: _measured(row) for name, row in found.vulnerability.items()},
        "units": _units(found),
        "to_dense": {name: asdict(pair) for name, pair in line.to_dense.items()},
        "against": {name: asdict(pair) for name, pair in line.against.items()},
        "credibility": found.credibility.credibility.value if found.credibility else None,
        "flags": list(found.flags),
        "published": [
            {
                "name": each.row.name,
                "where": each.row.where,
                "protocol": each.row.protocol,
                "differs": list(each.differs),
            }
            | {"values": each.row.values}
            for each in line.published
        ],
        "timed": {
            "training_s": found.spent.seconds,
            "p50_ms": None if found.p50 is None else found.p50.value,
        },
    }


def _measured(row: Measurement) -> dict[str, Any]:
    return {"value": row.value, "low": row.low, "high": row.high, "n": row.n}
