"""``robustdeploy table``: several systems at one budget, under one protocol, in one table."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from robustdeploy.cli import result
from robustdeploy.cli.completion import complete_comparison, complete_row
from robustdeploy.cli.options import (
    RUNS,
    DataOption,
    JsonOption,
    NameOption,
    OptionalTarget,
    QuietOption,
    RunsOption,
    SetOption,
    SkipOption,
    overrides,
)
from robustdeploy.cli.sweep import OnOption
from robustdeploy.comparing.going import compare_systems
from robustdeploy.comparing.results import NUMBERS, cells_of, document, head_of
from robustdeploy.comparing.table import Line, Table
from robustdeploy.data.find import looking_once
from robustdeploy.tracking.chosen import listening

PlanArgument = Annotated[
    str, typer.Argument(metavar="PLAN", help="Comparison by name or YAML file.", autocompletion=complete_comparison)
]
OnlyOption = Annotated[
    Optional[list[str]],  # noqa: UP045 - Typer reads it at run time
    typer.Option(
        "--only",
        metavar="ROW",
        help="Row to make, with what it begins with; may be repeated.",
        autocompletion=complete_row,
    ),
]
JobsOption = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Rows to make side by side on this machine.")]


def table(
    plan: PlanArgument = "digits-resnet8",
    only: OnlyOption = None,
    jobs: JobsOption = 1,
    on: OnOption = "here",
    data: DataOption = None,
    skip_unreadable: SkipOption = False,
    target: OptionalTarget = None,
    set_: SetOption = None,
    name: NameOption = None,
    runs: RunsOption = RUNS,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare systems under one protocol.

    Every row is an ordinary run, and what is done is skipped. Rows that are not alike are told apart, with what
    differs.
    """
    with listening(None, quiet or as_json) as callback, looking_once():
        done = compare_systems(
            plan,
            only=only or (),
            overrides=overrides(set_, data=data, skip=skip_unreadable),
            target=target,
            at_once=jobs,
            on=on,
            runs=runs,
            name=name,
            say=callback.say,
            quiet=quiet or as_json,
        )
    found, lines = done.table, []
    for track, its in found.tracks.items():
        lines += [track, *_told(found, its), ""]
    if found.apart:
        lines += ["not alike", *_told(found, found.apart)]
        lines += [f"{line.found.run.row}: {text}" for line in found.apart for text in line.differs] + [""]
    lines += [f"{run} has no row: {why}" for run, why in found.missing.items()]
    result.show([*lines, f"{done.page} is written"], document(done.folder, found), as_json)
    raise typer.Exit(done.exit_code)


def _told(found: Table, lines: tuple[Line, ...]) -> list[str]:
    return result.table([head_of(found), *(cells_of(found, line) for line in lines)], right=NUMBERS)
