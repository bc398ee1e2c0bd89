"""What a sweep found, written beside its runs: as a page, as Markdown and as JSON, each made from the reports alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robustdeploy.core.files import atomic_write_json, atomic_write_text
from robustdeploy.foreign import one_line
from robustdeploy.report.page import page
from robustdeploy.report.quantity import quantity
from robustdeploy.sweep.folder import SweepFolder
from robustdeploy.sweep.picture import picture, setting_text, styles_of
from robustdeploy.sweep.table import COSTS, FIGURES, Mean, Table, document

PAGE, MARKDOWN, JSON = "results.html", "results.md", "results.json"


def write_results(folder: SweepFolder, table: Table) -> Path:
    """Write all three, and return the page."""
    atomic_write_json(folder.root / JSON, document(table))
    atomic_write_text(folder.root / MARKDOWN, "\n".join(_markdown(folder, table)) + "\n")
    atomic_write_text(folder.root / PAGE, _html(folder, table))
    return folder.root / PAGE


def cells_of(table: Table) -> list[list[str]]:
    """Return the means as rows of words under a head."""
    head = ["setting", "subject", "runs", *(figure.title for figure in FIGURES), "not beaten by"]
    return [head, *([*_words(mean), ", ".join(titles) or "-"] for mean, titles in _with_titles(table))]


def _words(mean: Mean) -> Iterator[str]:
    yield setting_text(mean.settings)
    yield mean.subject
    yield str(len(mean.cells))
    for figure in FIGURES:
        if figure.name not in mean.values:
            yield "-"
            continue
        told = quantity(mean.values[figure.name], figure.unit)
        low, high = (quantity(each, figure.unit) for each in mean.spread[figure.name])
        yield f"{told} ({low} to {high})" if len(mean.cells) > 1 else told


def _with_titles(table: Table) -> Iterator[tuple[Mean, list[str]]]:
    """Yield each mean with the costs in which no other setting beats it."""
    unbeaten = table.unbeaten
    for index, mean in enumerate(table.means):
        yield mean, [cost.title for cost in COSTS if index in unbeaten[cost.name]]


def _markdown(folder: SweepFolder, table: Table) -> Iterator[str]:
    head, *rows = cells_of(table)
    yield f"# Sweep {one_line(folder.name)}"
    yield ""
    yield "Means over the seeds of a setting, on test images. To choose by them is to select on the test set."
    yield ""
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(one_line(cell).replace('|', '/') for cell in row)} |"
    if table.missing:
        yield ""
    for name, why in table.missing.items():
        yield f"- {one_line(name)} has no report: {one_line(why)}"


def _html(folder: SweepFolder, table: Table) -> str:
    styles = styles_of(table)
    content: dict[str, Any] = {
        "name": folder.name,
        "total": len(folder.asked.cells),
        "done": len(folder.asked.cells) - len(table.missing),
        "missing": table.missing,
        "costs": COSTS,
        "figures": FIGURES,
        "styles": styles,
        "means": [(setting_text(mean.settings), mean, titles) for mean, titles in _with_titles(table)],
        "rows": table.rows,
    }
    charts = {cost.name: picture(table, cost, styles) for cost in COSTS}
    return page("sweep.html.j2", charts=charts, **content)
