"""``robustdeploy compare``: two reports side by side, and whether they may be compared at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustdeploy.cli.completion import complete_report
from robustdeploy.cli.heavy import comparison, paired
from robustdeploy.cli.options import RUNS, JsonOption, RunsOption
from robustdeploy.cli.result import show, table
from robustdeploy.core.report import Report
from robustdeploy.report.compare import Row, compared, counterparts
from robustdeploy.report.sides import side_of

if TYPE_CHECKING:
    from robustdeploy.evaluate.comparison import Change
    from robustdeploy.evaluate.paired import PairedChange

FirstArgument = Annotated[
    Path, typer.Argument(metavar="BEFORE", help="Run or report.json.", autocompletion=complete_report)
]
SecondArgument = Annotated[
    Path, typer.Argument(metavar="AFTER", help="Run or report.json.", autocompletion=complete_report)
]


AcrossOption = Annotated[
    bool, typer.Option("--across", help="Also subtract accuracies of different images, threats or attacks.")
]


def compare(
    before: FirstArgument,
    after: SecondArgument,
    across: AcrossOption = False,
    runs: RunsOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Show two reports side by side.

    What was made or measured differently is said first; a row that one side lacks is shown as such.
    Accuracies are subtracted only where images, threat and attacks are the same.
    Whether a net became slower is told by a test over runs, at which equal nets do not alarm; whether an accuracy
    changed, by a test over images, where both are runs and of the same images.
    """
    sides = [side_of(path, runs) for path in (before, after)]
    (first, first_root), (second, second_root) = ((side.report, side.root) for side in sides)
    found = compared(first, second, (sides[0].recipe, sides[1].recipe))
    timed = list(_timed(first, second, first_root, second_root))
    pairs = list(_paired(first, second, first_root, second_root)) if across or found.attacked_alike else []
    names = _names(first, second, before, after)
    lines = [f"{side}: {report.title}, {report.verdict.headline}" for side, report in names.items()]
    lines += [f"not alike: {each}" for each in found.not_alike]
    lines += [f"differs: {each}" for each in found.differs]
    lines += [
        f"{scenario} of {subject}: {told.text if isinstance(told, comparison.Change) else told}"
        for subject, scenario, told in timed
    ]
    lines += list(_pair_lines(pairs))
    rows = found.rows if not across else [replace(row, attacked_alike=True) for row in found.rows]
    if any(_withheld(row) for row in rows):
        lines.append(
            "accuracies are not subtracted, since they were measured differently; --across does it all the same"
        )
    cells = [["", *names, "change", "unit", ""], *(_cells(row, *names) for row in rows)]
    lines += ["", *table(cells, right=range(1, 4))]
    document = {
        "runs": [
            {"shown_as": side, "name": r.name, "targets": list(r.targets), "outcome": r.verdict.outcome}
            for side, r in names.items()
        ],
        "differences": found.not_alike,
        "made_differently": found.differs,
        "latency": [
            {
                "subject": subject,
                "scenario": scenario,
                **(asdict(told) if isinstance(told, comparison.Change) else {"reason": told}),
            }
            for subject, scenario, told in timed
        ],
        "accuracies": [
            {"subject": subject, "attack": name, **(asdict(change) if change else {"reason": told})}
            for subject, name, told, change in pairs
        ],
        "rows": [{"row": row.label, **asdict(row), "change": None if _withheld(row) else row.change} for row in rows],
    }
    show(lines, document, as_json)


def _timed(
    first: Report, second: Report, before: Path | None, after: Path | None
) -> Iterator[tuple[str, str, Change | str]]:
    """Compare the timed runs of each subject that both have, scenario by scenario."""
    if before is None or after is None:  # a report alone holds no run of a process
        return
    for one, other in counterparts(first, second):
        if one.board.get("emulated") or other.board.get("emulated"):
            continue  # its time says nothing and was not taken
        name = " against ".join(dict.fromkeys((one.subject, other.subject)))
        if one.board.get("cpu_model") != other.board.get("cpu_model"):
            yield name, "latency", "not compared: the two were timed on different processors"
            continue
        sides = [
            comparison.timed_runs(root / each.evaluation / "timings.json")
            for root, each in ((before, one), (after, other))
        ]
        if told := next((side for side in sides if isinstance(side, str)), None):
            yield name, "latency", f"not compared: {told}"
        else:
            yield from ((name, scenario, found) for scenario, found in comparison.changes(*sides))  # type: ignore[arg-type]


def _paired(
    first: Report, second: Report, before: Path | None, after: Path | None
) -> Iterator[tuple[str, str, str, PairedChange | None]]:
    """Pair the accuracies of each subject that both have, image by image; without a change, the text says why."""
    if before is None or after is None:  # a report alone holds no outcome of an image
        return
    for one, other in counterparts(first, second):
        name = " against ".join(dict.fromkeys((one.subject, other.subject)))
        ran, also = (paired.parts_in(r.measurements, each.subject) for r, each in ((first, one), (second, other)))
        shared = {attack: parts for attack, parts in ran.items() if also.get(attack) == parts}
        judged, too = (paired.corruptions_in(r.measurements, e.subject) for r, e in ((first, one), (second, other)))
        both = {label: column for label, column in judged.items() if too.get(label) == column}
        told = paired.paired_changes(before / one.evaluation, after / other.evaluation, shared, both)
        if isinstance(told, str):
            yield name, "accuracy", told, None
        else:
            yield from ((name, change.attack, change.text, change) for change in told)


def _pair_lines(pairs: Sequence[tuple[str, str, str, PairedChange | None]]) -> Iterator[str]:
    """Return a line for each pair; those of corruptions that show no change are counted, since there may be 75."""
    quiet: dict[str, int] = {}
    for subject, name, told, change in pairs:
        if change is not None and change.corruption and not change.shown:
            quiet[subject] = quiet.get(subject, 0) + 1
        else:
            yield f"{name} of {subject}: {told}"
    yield from (f"{count} corruptions of {subject}: no change shown" for subject, count in quiet.items())


def _names(first: Report, second: Report, before: Path, after: Path) -> dict[str, Report]:
    """Name the two columns: by run, with the target or the place in the command where that is the same."""
    for one, other in (
        (first.name, second.name),
        (first.title, second.title),
        (str(before), str(after)),
    ):
        if one != other:
            return {one: first, other: second}
    return {"before": first, "after": second}


def _withheld(row: Row) -> bool:
    """Say whether the two sides are there and their difference would mean nothing."""
    return row.change is not None and not row.attacked_alike


def _cells(row: Row, before: str, after: str) -> list[str]:
    share = row.unit == "fraction"

    def number(value: float | None, sign: str = "") -> str:
        if value is None:
            return "-"
        whole = row.unit in ("MACs", "params", "bytes")
        return f"{100 * value:{sign}.2f}" if share else f"{value:{sign},.0f}" if whole else f"{value:{sign}.4g}"

    note = "intervals apart" if row.apart else ""
    if row.change is None:
        note = f"only in {before if row.after is None else after}"
    elif _withheld(row):
        note = "not alike"
    change = None if _withheld(row) else row.change
    return [row.label, number(row.before), number(row.after), number(change, "+"), "%" if share else row.unit, note]
