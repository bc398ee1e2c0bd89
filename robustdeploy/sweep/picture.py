"""The picture of a sweep: robust accuracy over a cost, with the settings that no other one beats joined by a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from robustdeploy.report.scatter import Front, Label, Point, scatter
from robustdeploy.report.svg import STYLES
from robustdeploy.sweep.table import ROBUST, Figure, Table


def styles_of(table: Table) -> Mapping[str, str]:
    """Give each subject a style of its own, by its place in the table."""
    subjects = dict.fromkeys(row.subject for row in table.rows)
    return {subject: STYLES[index % len(STYLES)] for index, subject in enumerate(subjects)}


def picture(table: Table, cost: Figure, styles: Mapping[str, str]) -> str:
    """Draw every run that has both figures; an empty text where none has."""
    points = [
        Point(f"{row.cell.name} on {row.subject}", styles[row.subject], row.found[cost.name], row.found[ROBUST.name])
        for row in table.rows
        if cost.name in row.found and ROBUST.name in row.found
    ]
    fronts = [Front(styles[subject], _front(table, subject, cost)) for subject in styles]
    title = f"Robust accuracy over {cost.title}"
    return scatter(f"sweep-{cost.name}", title, points, list(_labels(table, cost)), fronts)


def _front(table: Table, subject: str, cost: Figure) -> list[tuple[float, float]]:
    unbeaten = table.unbeaten[cost.name]
    return sorted(
        (mean.values[cost.name], mean.values[ROBUST.name])
        for index, mean in enumerate(table.means)
        if index in unbeaten and mean.subject == subject
    )


def _labels(table: Table, cost: Figure) -> Iterator[Label]:
    for index, mean in enumerate(table.means):
        if cost.name in mean.values and ROBUST.name in mean.values:
            words = setting_text(mean.settings) + ("" if index in table.unbeaten[cost.name] else ", beaten")
            yield Label(words, (mean.values[cost.name], mean.values[ROBUST.name]))


def setting_text(settings: Mapping[str, str]) -> str:
    """Write a setting as ``ops 0.5, lr 0.1``; what varies nothing but the seed is ``as it is``."""
    return ", ".join(f"{field.rpartition('.')[2]} {value}" for field, value in settings.items()) or "as it is"
