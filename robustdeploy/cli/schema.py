"""``robustdeploy schema``: JSON Schema of what users write and read, for editors and other tools."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

NounArgument = Annotated[str, typer.Argument(metavar="NOUN", help="recipe, target, report or gate.")]


def schema(noun: NounArgument = "recipe") -> None:
    """Print the JSON Schema of a recipe, a target, a report or a gate file."""
    from robustdeploy.core.complaint import did_you_mean
    from robustdeploy.core.schema import KINDS, schema_of
    from robustdeploy.errors import UsageError

    if noun not in KINDS:
        raise UsageError(f"there is no schema of '{noun}'{did_you_mean(noun, KINDS)} (schemas: {', '.join(KINDS)})")
    kind: Any = noun
    print(json.dumps(schema_of(kind), indent=2, ensure_ascii=False))
