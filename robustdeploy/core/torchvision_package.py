"""Torchvision: its classifiers' names, read from its files without importing it, and its parts when they are needed."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from robustdeploy.errors import ToolchainError


@cache
def classifiers() -> frozenset[str]:
    """Return what ``torchvision.models.list_models`` lists of classifiers; nothing where torchvision is missing."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return frozenset()
    # Detection, segmentation and the like lie in folders of their own.
    files = (Path(spec.origin).parent / "models").glob("*.py")
    return frozenset(name for file in files for name in _registered(file.read_text(encoding="utf-8")))


def part_of_torchvision(part: str) -> Any:
    """Import ``torchvision.part``; ToolchainError where torchvision is missing or was built for another torch."""
    # Imported when it is asked for: it takes seconds, and most recipes name a net and a data set of our own.
    try:
        return importlib.import_module(f"torchvision.{part}")
    except (ImportError, OSError, RuntimeError) as error:  # operators that a torch of another build lacks: RuntimeError
        raise ToolchainError(
            f"torchvision cannot be imported ({type(error).__name__}: {error}); install torch and torchvision in one "
            "command and from one index, so that both are of the same build"
        ) from error


def _registered(text: str) -> Iterator[str]:
    """Names under which a module registers functions: their own, or the one that ``register_model`` is given."""
    # Parsing takes far longer than searching.
    if "@register_model(" not in text:
        return
    for node in ast.parse(text).body:
        for mark in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
            if isinstance(mark, ast.Call) and getattr(mark.func, "id", "") == "register_model":
                given = [*mark.args, *(word.value for word in mark.keywords)]
                first = given[0] if given else None
                assert isinstance(node, ast.FunctionDef)
                yield str(first.value) if isinstance(first, ast.Constant) and first.value else node.name
