"""``robustdeploy compare``: reports side by side, and whether they may be compared at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from robustdeploy.cli.completion import complete_report
from robustdeploy.cli.heavy import pages, pairings
from robustdeploy.cli.options import RUNS, JsonOption, RunsOption
from robustdeploy.cli.result import show, table
from robustdeploy.core.files import atomic_write_text, make_folder
from robustdeploy.core.report import Report
from robustdeploy.errors import UsageError
from robustdeploy.report.compare import Row
from robustdeploy.report.sides import side_of

SidesArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN RUN…", help="Two or more runs or report.json; the first is before.", autocompletion=complete_report
    ),
]
AcrossOption = Annotated[
    bool, typer.Option("--across", help="Also subtract accuracies of different images, threats or attacks.")
]
HtmlOption = Annotated[
    Optional[Path],  # noqa: UP045 - Typer reads it at run time
    typer.Option("--html", help="Also write a page, with images that were lost and won."),
]


def compare(
    sides: SidesArgument,
    across: AcrossOption = False,
    html: HtmlOption = None,
    runs: RunsOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Show reports side by side.

    Of several the first is what all others are compared with.
    What was made or measured differently is said first; a row that one side lacks is shown as such.
    Accuracies are subtracted only where images, threat and attacks are the same.
    Whether a net became slower is told by a test over runs, at which equal nets do not alarm; whether an accuracy
    changed, by a test over images, where both are runs and of the same images.
    """
    if len(sides) < 2:
        raise UsageError(f"compare needs two or more runs or reports, and only {sides[0]} was given")
    held = [side_of(path, runs) for path in sides]
    found = [pairings.pairing(held[0], each, across) for each in held[1:]]
    names = _names([side.report for side in held], sides)
    lines = [
        f"{name}: {side.report.title}, {side.report.verdict.headline}" for name, side in zip(names, held, strict=True)
    ]
    for name, each in zip(names[1:], found, strict=True):
        lines += [line if len(found) == 1 else f"{name}: {line}" for line in _sentences(each)]
    if any(_withheld(row) for each in found for row in each.rows):
        lines.append(
            "accuracies are not subtracted, since they were measured differently; --across does it all the same"
        )
    lines += ["", *(_two(found[0], names) if len(found) == 1 else _many(found, names))]
    shown = [
        {"shown_as": name, "name": r.name, "targets": list(r.targets), "outcome": r.verdict.outcome}
        for name, r in zip(names, (side.report for side in held), strict=True)
    ]
    # Of two, as it always was: what is said of the pair stands at the top.
    documents = [_document(each) for each in found]
    beside = [{"shown_as": name, **each} for name, each in zip(names[1:], documents, strict=True)]
    document = {"runs": shown, **(documents[0] if len(found) == 1 else {"against_the_first": beside})}
    if html is not None:
        make_folder(html.parent)
        atomic_write_text(html, pages.compare_page(found, names))
        lines.append(f"{html} is written")
    show(lines, document, as_json)


def _sentences(pair: Any) -> Iterator[str]:
    """Yield what was measured or made differently, and what became of times and accuracies."""
    yield from (f"not alike: {each}" for each in pair.found.not_alike)
    yield from (f"differs: {each}" for each in pair.found.differs)
    yield from (f"{each.scenario} of {each.subject}: {each.text}" for each in pair.times)
    yield from _image_sentences(pair.images)


def _image_sentences(images: Sequence[Any]) -> Iterator[str]:
    """Yield what became of each accuracy; corruptions that show no change are counted, since there may be 75."""
    quiet: dict[str, int] = {}
    for each in images:
        if each.change is not None and each.change.family == "corruption" and not each.change.shown:
            quiet[each.subject] = quiet.get(each.subject, 0) + 1
        else:
            yield f"{each.attack} of {each.subject}: {each.text}"
    yield from (f"{count} corruptions of {subject}: no change shown" for subject, count in quiet.items())


def _document(pair: Any) -> dict[str, Any]:
    rows = ({k: v for k, v in asdict(row).items() if k != "key"} for row in pair.rows)
    changes = (None if _withheld(row) else row.change for row in pair.rows)
    labels = (row.label for row in pair.rows)
    return {
        "differences": pair.found.not_alike,
        "made_differently": pair.found.differs,
        "latency": [
            {
                "subject": each.subject,
                "scenario": each.scenario,
                **({"reason": each.told} if isinstance(each.told, str) else asdict(each.told)),
            }
            for each in pair.times
        ],
        "accuracies": [
            {
                "subject": each.subject,
                "attack": each.attack,
                **(asdict(each.change) if each.change else {"reason": each.text}),
            }
            for each in pair.images
        ],
        "rows": [
            {"row": label, **row, "change": change} for label, row, change in zip(labels, rows, changes, strict=True)
        ],
    }


def _names(reports: Sequence[Report], paths: Sequence[Path]) -> list[str]:
    """Name the columns: by run, with the target, or as in the command where that is the same."""
    for names in ([r.name for r in reports], [r.title for r in reports], [str(path) for path in paths]):
        if len(set(names)) == len(names):
            return names
    if len(reports) == 2:
        return ["before", "after"]
    return [f"{number} {report.name}" for number, report in enumerate(reports, start=1)]


def _two(pair: Any, names: Sequence[str]) -> list[str]:
    cells = [["", *names, "change", "unit", ""], *(_cells(row, *names) for row in pair.rows)]
    return table(cells, right=range(1, 4))


def _many(found: Sequence[Any], names: Sequence[str]) -> list[str]:
    cells = [["", *names, "unit", ""]]
    for line in pages.lines_of(found, names):
        unit = line.row.unit
        values = [_number(value, unit) for value in line.values]
        cells.append([line.row.label, *values, "%" if unit == "fraction" else unit, "; ".join(line.notes)])
    return table(cells, right=range(1, len(names) + 1))


def _withheld(row: Row) -> bool:
    """Say whether the two sides are there and their difference would mean nothing."""
    return row.change is not None and not row.attacked_alike


def _number(value: float | None, unit: str, sign: str = "") -> str:
    if value is None:
        return "-"
    whole = unit in ("MACs", "params", "bytes")
    share = unit == "fraction"
    return f"{100 * value:{sign}.2f}" if share else f"{value:{sign},.0f}" if whole else f"{value:{sign}.4g}"


def _cells(row: Row, before: str, after: str) -> list[str]:
    note = "intervals apart" if row.apart else ""
    if row.change is None:
        note = f"only in {before if row.after is None else after}"
    elif _withheld(row):
        note = "not alike"
    change = None if _withheld(row) else row.change
    numbers = _number(row.before, row.unit), _number(row.after, row.unit), _number(change, row.unit, "+")
    return [row.label, *numbers, "%" if row.unit == "fraction" else row.unit, note]
