"""Turn a plug-in's dataclass into the type its options are checked against."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from robustdeploy.core.model import Number


def numbers_accept_fractions(hint: Any) -> Any:
    """Replace ``float`` anywhere in a type by ``Number``, so that ``8/255`` is read wherever a number is."""
    if hint is float:
        return Number
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return Annotated[numbers_accept_fractions(arguments[0]), *arguments[1:]]
    if origin is typing.Literal or not arguments:
        return hint
    changed = tuple(numbers_accept_fractions(argument) for argument in arguments)
    if origin in (typing.Union, types.UnionType):
        return typing.Union[changed]  # noqa: UP007 - built from a tuple
    return origin[changed] if origin is not None else hint


def _annotated(hint: Any, mark: Any) -> Any:
    return Annotated[hint, mark]


def _descriptions(plugin: type) -> Mapping[str, str]:
    """Docstrings that stand below the fields of a class; none where its source is not at hand."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(plugin))).body[0]
    except (OSError, TypeError, SyntaxError):
        return {}
    found = {}
    statements = body.body if isinstance(body, ast.ClassDef) else []
    for this, below in itertools.pairwise(statements):
        if (
            isinstance(this, ast.AnnAssign)
            and isinstance(this.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            found[this.target.id] = inspect.cleandoc(below.value.value)
    return found


def options_type(plugin: type) -> type[Any]:
    """Return a dataclass with the fields of ``plugin`` that refuses unknown keys and numbers that are not finite."""
    return _options_type(plugin)


@cache
def _options_type(plugin: Any) -> type[Any]:
    hints = typing.get_type_hints(plugin, include_extras=True)
    described = _descriptions(plugin)
    fields: list[tuple[str, Any, Any]] = []
    for f in dataclasses.fields(plugin):
        if f.init:
            about = Field(description=described.get(f.name))
            hint: Any = _annotated(numbers_accept_fractions(hints[f.name]), about)
            default: Any = {"default": f.default, "default_factory": f.default_factory}
            fields.append((f.name, hint, dataclasses.field(**default, kw_only=True)))
    return checked_type(plugin.__name__, fields, plugin.__doc__)


def checked_type(name: str, fields: list[tuple[str, Any, Any]], doc: str | None) -> type[Any]:
    """Return a dataclass of ``fields`` (name, type, ``dataclasses.field``) that refuses keys it does not know."""
    plain = dataclasses.make_dataclass(name, fields, frozen=True)
    plain.__doc__ = doc
    config = ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=False)
    return dataclass(frozen=True, config=config)(plain)
