"""``robustdeploy sweep``: one recipe under several settings, and what each of them bought."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from robustdeploy.cli.completion import complete_set
from robustdeploy.cli.options import (
    HOST,
    RUNS,
    DataOption,
    JsonOption,
    NameOption,
    PrecisionsOption,
    QuietOption,
    RecipeArgument,
    RunsOption,
    SetOption,
    SkipOption,
    StartOption,
    TargetsOption,
    overrides,
)
from robustdeploy.cli.result import show, table
from robustdeploy.data.find import looking_once
from robustdeploy.sweep import going as sweeping
from robustdeploy.sweep.going import Swept
from robustdeploy.sweep.results import cells_of
from robustdeploy.sweep.table import FIGURES, document
from robustdeploy.tracking.chosen import listening

OverOption = Annotated[
    Optional[list[str]],  # noqa: UP045 - Typer reads it at run time
    typer.Option(
        "--over",
        metavar="A.B=C,D,…",
        help="Field of the recipe to go over, with its values; may be repeated.",
        autocompletion=complete_set,
    ),
]
OnOption = Annotated[
    str, typer.Option("--on", help="Where the runs are made: here, or ray://HOST:PORT for a Ray cluster.")
]


def sweep(
    recipe: RecipeArgument = "digits-resnet8",
    over: OverOption = None,
    target: TargetsOption = None,
    precision: PrecisionsOption = None,
    on: OnOption = "here",
    data: DataOption = None,
    skip_unreadable: SkipOption = False,
    start: StartOption = None,
    set_: SetOption = None,
    name: NameOption = None,
    runs: RunsOption = RUNS,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a recipe under several settings.

    Every combination is an ordinary run, and what is done is skipped. The table and the picture tell which settings no
    other one beats: robust accuracy against latency and operations.
    """
    with listening(None, quiet or as_json) as callback, looking_once():
        found = sweeping.sweep(
            recipe,
            over or (),
            target or (HOST,),
            precisions=precision or (),
            overrides=overrides(set_, data=data, start=start, skip=skip_unreadable),
            on=on,
            runs=runs,
            name=name,
            say=callback.say,
            quiet=quiet or as_json,
        )
    # Without any report the table has nothing but a head.
    lines = table(cells_of(found.table), right=range(2, 3 + len(FIGURES))) if found.table.means else []
    lines += [f"{name} has no report: {_why(found, name, why)}" for name, why in found.table.missing.items()]
    show([*lines, f"{found.page} is written"], document(found.table), as_json)
    raise typer.Exit(found.exit_code)


def _why(found: Swept, name: str, why: str) -> str:
    return found.failed[name].why if name in found.failed else why
