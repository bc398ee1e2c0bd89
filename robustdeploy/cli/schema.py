"""``robustdeploy schema``: JSON Schema of what users write and read, for editors and other tools."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from robustdeploy.cli.completion import complete_noun
from robustdeploy.cli.options import JsonOption
from robustdeploy.cli.result import show
from robustdeploy.core.complaint import did_you_mean
from robustdeploy.core.schema import KINDS, schema_of
from robustdeploy.errors import UsageError

NounArgument = Annotated[
    str,
    typer.Argument(metavar="NOUN", help="recipe, target, comparison, report or gate.", autocompletion=complete_noun),
]


def schema(noun: NounArgument = "recipe", as_json: JsonOption = False) -> None:
    """Print JSON Schema for editors and tools.

    Of a recipe, a target, a comparison, a report or a gate file; with --json too it is that.
    """
    if noun not in KINDS:
        raise UsageError(f"there is no schema of '{noun}'{did_you_mean(noun, KINDS)} (schemas: {', '.join(KINDS)})")
    kind: Any = noun
    show((), schema_of(kind), as_json=True)
