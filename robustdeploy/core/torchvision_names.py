"""Names of torchvision's classifiers, read from its files: importing it takes seconds, and a typing error none."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path


@cache
def classifiers() -> frozenset[str]:
    """Return what ``torchvision.models.list_models`` lists of classifiers; nothing where torchvision is missing."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return frozenset()
    # Detection, segmentation and the like lie in folders of their own.
    files = (Path(spec.origin).parent / "models").glob("*.py")
    return frozenset(name for file in files for name in _registered(file.read_text(encoding="utf-8")))


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
