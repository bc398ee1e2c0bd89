"""The Typer app: the options of the whole program, over a group that imports a command when it is wanted."""

from __future__ import annotations

from typing import Annotated

import typer

from robustdeploy import __version__
from robustdeploy.cli.group import STYLE, LazyGroup

app = typer.Typer(
    name="robustdeploy",
    cls=LazyGroup,
    help=(
        "Prune a network while training it to be robust, put it on the device, attack and time what runs there, "
        "and gate on all of it.\n\n"
        "Exit codes: 0 done or PASS, 1 FAIL, 2 wrong usage or file, 3 INCONCLUSIVE, 4 the environment failed, "
        "130/143 interrupted and resumable."
    ),
    no_args_is_help=True,
    **STYLE,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"robustdeploy {__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the whole program."""
