"""``robustdeploy compare``: two reports side by side, and whether they may be compared at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustdeploy.cli.options import RUNS, JsonOption, RunsOption, complete_run

if TYPE_CHECKING:
    from robustdeploy.core.report import Measurement, Report

FirstArgument = Annotated[
    Path, typer.Argument(metavar="BEFORE", help="Run or report.json.", autocompletion=complete_run)
]
SecondArgument = Annotated[
    Path, typer.Argument(metavar="AFTER", help="Run or report.json.", autocompletion=complete_run)
]


def compare(before: FirstArgument, after: SecondArgument, runs: RunsOption = RUNS, as_json: JsonOption = False) -> None:
    """Show the rows of two reports side by side, and say where their conditions differ."""
    from robustdeploy.cli.result import show

    reports = [_read(path, runs) for path in (before, after)]
    differences = _differences(*reports)
    rows = list(_rows(*reports))
    lines = [f"not alike: {difference}" for difference in differences]
    lines.append(f"{'':<44} {'before':>12} {'after':>12} {'change':>10}")
    lines += [_line(row) for row in rows]
    show("\n".join(lines), {"differences": differences, "rows": rows}, as_json)


def _read(path: Path, runs: Path) -> Report:
    from robustdeploy.core.run import Run
    from robustdeploy.pipeline import read_report
    from robustdeploy.report.load import load_report

    return load_report(path) if path.is_file() else read_report(Run.open(path, runs))


def _differences(before: Report, after: Report) -> list[str]:
    """Say what makes two sets of numbers incomparable: other images, another threat, another board."""
    pairs = {
        "threat": (f"eps {before.threat.eps:g}", f"eps {after.threat.eps:g}"),
        "data": (before.data.get("name"), after.data.get("name")),
        "test images": (before.data.get("test"), after.data.get("test")),
        "split": (before.data.get("split_sha256"), after.data.get("split_sha256")),
        "target": (before.target, after.target),
    }
    return [f"{name}: {a} against {b}" for name, (a, b) in pairs.items() if a != b]


def _rows(before: Report, after: Report) -> Any:
    theirs = {_key(row): row for row in after.measurements}
    for row in before.measurements:
        if (other := theirs.get(_key(row))) is None:
            continue
        conditions = {
            k: (v, other.conditions.get(k)) for k, v in row.conditions.items() if other.conditions.get(k) != v
        }
        yield {
            "row": " ".join(part for part in _key(row) if part),
            "before": row.value,
            "after": other.value,
            "unit": row.unit,
            "apart": _apart(row, other),
            "other_conditions": sorted(conditions),
        }


def _key(row: Measurement) -> tuple[str, ...]:
    return (
        row.metric,
        row.where,
        row.attack or "",
        str(row.conditions.get("multiple", "")),
        str(row.conditions.get("images", "")),
        str(row.conditions.get("class", "")) if row.metric.startswith("class_") else "",
    )


def _apart(row: Measurement, other: Measurement) -> bool | None:
    """Whether the two intervals do not even touch; None where there are none."""
    if row.low is None or row.high is None or other.low is None or other.high is None:
        return None
    return row.high < other.low or other.high < row.low


def _line(row: dict[str, Any]) -> str:
    scale, form = (100, ".2f") if row["unit"] == "fraction" else (1, ".4g")
    mark = "" if not row["apart"] else "  intervals apart"
    numbers = (row["before"] * scale, row["after"] * scale, (row["after"] - row["before"]) * scale)
    return f"{row['row']:<44} {numbers[0]:>12{form}} {numbers[1]:>12{form}} {numbers[2]:>+10{form}}{mark}"
