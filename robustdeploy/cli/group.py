"""The lazy group: a command's module is imported when that command is run, completed or asked for its own help."""

from __future__ import annotations

import ast
import importlib
import keyword
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

COMMANDS = (
    "init",
    *("run", "plan", "prune", "import", "export", "evaluate", "report", "gate"),
    *("sweep", "table", "profile", "bisect", "collect", "compare", "index", "serve", "verify"),
    *("doctor", "board", "ls", "validate", "schema"),
)
"""In the order of the help. Each is the function of that name in the module of that name beside this one, with ``_``
behind a word of Python's own."""
STYLE: dict[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False}
"""Of all commands: plain words, and errors are told by the program itself."""


class LazyGroup(TyperGroup):
    """Lists commands by the words of their files; imports the one that is wanted."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: TyperCommand(name, help=None) for name in COMMANDS}

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return what the help and the shell list: a name and a summary, without options."""
        listed = super().get_command(ctx, cmd_name)
        if listed is not None and listed.help is None:
            listed.help = described(cmd_name)
        return listed

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command itself: here it is certain which one is wanted."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, None if listed is None else imported(args[0]), rest


def described(name: str) -> str:
    """Return the docstring of a command's function, read from its file without importing it."""
    word = _word(name)
    tree = ast.parse((Path(__file__).parent / f"{word}.py").read_text(encoding="utf-8"))
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == word)
    return ast.get_docstring(function) or ""


def imported(name: str) -> Any:
    """Import a command's module and return the command with its options."""
    alone = typer.Typer(add_completion=False, **STYLE)
    word = _word(name)
    alone.command(name)(getattr(importlib.import_module(f"robustdeploy.cli.{word}"), word))
    return typer.main.get_command(alone)


def _word(name: str) -> str:
    return f"{name}_" if keyword.iskeyword(name) else name
