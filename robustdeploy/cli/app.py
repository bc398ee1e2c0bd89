"""The Typer app: every command, and nothing heavier than Typer itself until one of them runs."""

from __future__ import annotations

from typing import Annotated

import typer

from robustdeploy import __version__
from robustdeploy.cli.compare import compare
from robustdeploy.cli.doctor import doctor
from robustdeploy.cli.evaluate import evaluate
from robustdeploy.cli.export import export
from robustdeploy.cli.gate import gate
from robustdeploy.cli.ls import ls
from robustdeploy.cli.plan import plan
from robustdeploy.cli.prune import prune
from robustdeploy.cli.report import report
from robustdeploy.cli.run import run
from robustdeploy.cli.schema import schema
from robustdeploy.cli.validate import validate
from robustdeploy.cli.verify import verify

app = typer.Typer(
    name="robustdeploy",
    help=(
        "Prune a network while training it to be robust, put it on the device, attack and time what runs there, "
        "and gate on all of it.\n\n"
        "Exit codes: 0 done or PASS, 1 FAIL, 2 wrong usage or file, 3 INCONCLUSIVE, 4 the environment failed, "
        "130/143 interrupted and resumable."
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
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


for command in (run, plan, prune, export, evaluate, report, gate, compare, verify, doctor, ls, validate, schema):
    app.command()(command)
