"""Options of a plug-in as its file declares them: names, types, limits and choices, read without importing it.

A gradient attack, a pruner or a task needs torch, which takes seconds to load; a misspelt option needs none of it.
The file is enough for fields of plain types. Of any other field only the name is known here; that, and what
``__post_init__`` asks, is checked when the plug-in is built.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator, Mapping
from functools import cache, reduce
from operator import or_
from pathlib import Path
from typing import Any, ClassVar, Literal

from robustdeploy.core import bounds
from robustdeploy.core.options import checked_type, numbers_accept_fractions
from robustdeploy.core.recipe import PlugIn

_TYPES: Mapping[str, Any] = {
    **{kind.__name__: kind for kind in (int, float, str, bool, list, tuple, dict, Path)},
    **{
        name: getattr(bounds, name)
        for name in ("Bits", "Count", "Whole", "NotNegative", "Positive", "Rate", "Severity", "Share", "Step")
    },
    "LossName": bounds.LossName,
    "PlugIn": PlugIn,
    "Literal": Literal,
    "ClassVar": ClassVar,
}
_HOMES = ("builtins", "pathlib", "typing", "robustdeploy.core.bounds", "robustdeploy.core.recipe")
"""Modules from which those names mean what they mean here."""


@cache
def declared_options(path: Path, attribute: str) -> type[Any] | None:
    """Return the type that options of the plug-in in ``path`` are checked against; None where the file does not tell.

    ``attribute`` is its class, or a name that is bound to it.
    """
    node, bound = _dataclass_in(path, attribute)
    if node is None:
        return None
    # A module may bind `int` or `Share` to something of its own.
    known = {name: kind for name, kind in _TYPES.items() if name not in bound or _means_the_same(bound[name])}
    return checked_type(node.name, list(_fields(node, known)), ast.get_docstring(node))


@cache
def declared_value(path: Path, attribute: str, name: str, default: Any = None) -> Any:
    """Return what the plug-in's class gives ``name`` at its top, a field or not; ``default`` where it gives it nothing.

    Raises LookupError where the file does not tell.
    """
    node, _ = _dataclass_in(path, attribute)
    if node is None:
        raise LookupError(name)
    for line in node.body:
        if isinstance(line, ast.FunctionDef) and line.name == name:
            raise LookupError(name)  # a property: what it gives is known when it runs
        if isinstance(line, ast.AnnAssign | ast.Assign) and name in _assigned(line):
            try:
                return default if line.value is None else ast.literal_eval(line.value)
            except ValueError as error:
                raise LookupError(name) from error
    return default


def _assigned(line: ast.AnnAssign | ast.Assign) -> list[str]:
    targets = line.targets if isinstance(line, ast.Assign) else [line.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _dataclass_in(path: Path, attribute: str) -> tuple[ast.ClassDef | None, dict[str, ast.stmt]]:
    """Return the class of the plug-in, where the file alone tells all of it, and what names the file binds."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return None, {}
    bound = {name: node for node in body for name in _names(node)}
    node: ast.stmt | None = bound.get(attribute)
    if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Name):
        node = bound.get(node.value.id)
    # Fields that a base adds stand in another file, so this one does not tell them all.
    whole = isinstance(node, ast.ClassDef) and not node.bases and "dataclass" in map(_called, node.decorator_list)
    return (node if whole and isinstance(node, ast.ClassDef) else None), bound


def _names(node: ast.stmt) -> Iterator[str]:
    """Names that a statement at the top of a module binds."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name for alias in node.names)
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        yield from _assigned(node)


def _means_the_same(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module in _HOMES


def _called(mark: ast.expr) -> str:
    """The last name of a decorator or a call."""
    mark = mark.func if isinstance(mark, ast.Call) else mark
    return mark.attr if isinstance(mark, ast.Attribute) else getattr(mark, "id", "")


def _fields(node: ast.ClassDef, known: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Fields of a dataclass; what stands in for a default is never used, since only what is given is checked."""
    for line in node.body:
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
            continue
        kind, init, default = _type(line.annotation, known), True, line.value is not None
        if isinstance(line.value, ast.Call) and _called(line.value) == "field":
            given = {word.arg: word.value for word in line.value.keywords}
            init = getattr(given.get("init"), "value", True) is not False
            default = bool(given.keys() & {"default", "default_factory"})
        if init and kind is not ClassVar:
            stand_in: Any = (
                dataclasses.field(default=None, kw_only=True) if default else dataclasses.field(kw_only=True)
            )
            yield line.target.id, numbers_accept_fractions(kind), stand_in


def _type(node: ast.expr, known: Mapping[str, Any]) -> Any:
    """The type that an annotation names, or Any where it takes more than this to know it."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):  # an annotation between quotes
            return _type(ast.parse(node.value, mode="eval").body, known)
        return None if node.value is None else Ellipsis if node.value is Ellipsis else Any
    if isinstance(node, ast.Name):
        return known.get(node.id, Any)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        sides = [_type(side, known) for side in (node.left, node.right)]
        return Any if Any in sides else reduce(or_, sides)
    if isinstance(node, ast.Subscript):
        outer, inner = _type(node.value, known), node.slice
        parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
        if outer is ClassVar:
            return ClassVar
        if outer is Literal and all(isinstance(part, ast.Constant) for part in parts):
            return Literal[tuple(part.value for part in parts if isinstance(part, ast.Constant))]
        if outer in (list, tuple, dict):
            return outer[tuple(_type(part, known) for part in parts)]
    return Any
