"""Say a validation error in one natural sentence: the value that was found, the limit, the nearest valid choice."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

Place = tuple[str | int, ...]
"""Keys and list indices from the root to a value."""

_BOUNDS = (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most"))
_PIXELS = ("eps", "alpha")
_KINDS = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of usual size",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "dict_type": "a mapping of keys to values",
    "mapping_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "dataclass_type": "a mapping of keys to values",
    "tuple_type": "a list",
    "list_type": "a list",
}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known word closest to ``word``, or nothing when none is near."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def shown(value: Any) -> str:
    """Return ``value`` as a user would write it in YAML, cut where it is long."""
    if value is None or isinstance(value, bool):
        text = {None: "nothing", True: "true", False: "false"}[value]
    elif isinstance(value, Mapping):
        text = "a mapping" + (f" with the keys {', '.join(map(str, value))}" if value else " without keys")
    elif isinstance(value, list | tuple):
        text = f"a list of {len(value)}"
    else:
        # repr writes out what steers a terminal, and shows where a text has quotes or ends in a space.
        text = repr(value)
    # A value may be a whole file that was pasted into one key.
    return text if len(text) <= 80 else text[:77] + "…"


def fields_of(kind: Any) -> Mapping[str, FieldInfo]:
    """Return the fields of a pydantic model or dataclass; of anything else, none."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.model_fields
    return getattr(kind, "__pydantic_fields__", {})


def _inside(kind: Any) -> Any:
    """Strip Annotated and Optional from a type; of a sequence, return the type of its items."""
    origin = typing.get_origin(kind)
    if origin is Annotated:
        return _inside(typing.get_args(kind)[0])
    if origin in (typing.Union, types.UnionType):
        real = [a for a in typing.get_args(kind) if a is not type(None)]
        return _inside(real[0]) if len(real) == 1 else kind
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return _inside(typing.get_args(kind)[0])
    return kind


def _field_at(kind: Any, place: Place) -> FieldInfo | None:
    found: FieldInfo | None = None
    for step in place:
        if isinstance(step, str):
            found = fields_of(_inside(kind)).get(step)
            if found is None:
                return None
            kind = found.annotation
    return found


def keys_at(kind: Any, place: Place) -> list[str]:
    """Return the keys that ``kind`` knows at ``place``; none where it takes any."""
    field = _field_at(kind, place)
    inside = _inside(field.annotation) if field else kind if not place else None
    return list(fields_of(inside))


def _limits(kind: Any, error: ErrorDetails) -> str:
    """Both limits of a number, from its field where that is found, else the one that was broken."""
    field = _field_at(kind, error["loc"])
    found: dict[str, Any] = dict(error.get("ctx", {}))
    for mark in field.metadata if field else ():
        # ``Annotated[Number, Field(…)]`` nests its bounds one level down.
        for bound in (mark, *getattr(mark, "metadata", ())):
            found |= {name: getattr(bound, name) for name, _ in _BOUNDS if getattr(bound, name, None) is not None}
    return " and ".join(f"{word} {_limit(found[name])}" for name, word in _BOUNDS if name in found)


def _limit(value: float) -> str:
    """A limit as a user would write it: one grey level is 1/255."""
    # 0.00392157 would tell no user what is meant.
    return "1/255" if value == 1 / 255 else f"{value:.6g}"


def _in_grey_levels(error: ErrorDetails) -> str:
    """Ask whether a step or radius above 1, which is of pixels in [0, 1], was meant in the 256 levels of an image."""
    try:
        number = float(error["input"])
    except (TypeError, ValueError):
        return ""
    name = next((step for step in reversed(error["loc"]) if isinstance(step, str) and step in _PIXELS), None)
    return f"; did you mean {number:g}/255?" if name and 1 < number <= 255 else ""


def decimal_comma(value: Any) -> str:
    """Ask whether ``0,3`` was meant as a number."""
    comma = isinstance(value, str) and re.fullmatch(r"\s*-?\d+,\d+\s*", value)
    return f"; did you mean {value.strip().replace(',', '.')}?" if comma else ""


def _meant(error: ErrorDetails, kind: Any) -> str:
    """What a value of the wrong kind was probably meant to be."""
    wanted, value = _KINDS[error["type"]], error["input"]
    if wanted == "a list" and isinstance(value, str):
        return f"; write [{value}]"
    if wanted == _KINDS["dict_type"] and (known := keys_at(kind, error["loc"])):
        return f"; known: {', '.join(known)}"
    return decimal_comma(value)


def complaint(error: ErrorDetails, kind: Any = None) -> str:
    """Return the sentence for one pydantic error of the model or dataclass ``kind``, without its place."""
    what, value = error["type"], shown(error["input"])
    # Models and dataclasses of pydantic call the same mistake by different names.
    if what in ("extra_forbidden", "unexpected_keyword_argument"):
        known = keys_at(kind, error["loc"][:-1])
        near = did_you_mean(str(error["loc"][-1]), known)
        listed = f"; known: {', '.join(known)}" if known and not near else ""
        return f"unknown key (value {value}){near}{listed}"
    if what in ("missing", "missing_argument"):
        return "is required and missing"
    if what in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return f"must be {_limits(kind, error)}, not {value}{_in_grey_levels(error)}"
    if what == "finite_number" and (limits := _limits(kind, error)):
        return f"must be a finite number {limits}, not {value}"
    if what in ("literal_error", "enum"):
        expected = error["ctx"]["expected"]
        near = did_you_mean(str(error["input"]), re.findall(r"'([^']*)'", expected))
        return f"must be {expected}, not {value}{near}"
    if what == "string_pattern_mismatch":
        return f"must match {error['ctx']['pattern']}, which {value} does not"
    if what in _KINDS:
        return f"must be {_KINDS[what]}, not {value}{_meant(error, kind)}"
    # These are sentences of our own validators, before which pydantic puts the exception's kind.
    return error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")


def is_dataclass_type(kind: Any) -> bool:
    """Say whether ``kind`` is a dataclass itself, not an instance of one."""
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def booleans_lost(raw: Any, made: Any, place: Place = ()) -> list[tuple[Place, str]]:
    """Find ``true`` and ``false`` that were taken for the numbers 1 and 0 on the way from ``raw`` to ``made``."""
    if isinstance(raw, bool):
        return [] if isinstance(made, bool) else [(place, f"must be a number, not {shown(raw)}")]
    pairs: list[tuple[str | int, Any, Any]] = []
    if isinstance(raw, Mapping):
        known = made if isinstance(made, Mapping) else {key: getattr(made, key) for key in fields_of(type(made))}
        pairs = [(key, raw[key], known[key]) for key in raw if key in known]
    elif isinstance(raw, list | tuple) and isinstance(made, list | tuple):
        pairs = [(index, *both) for index, both in enumerate(zip(raw, made, strict=False))]
    return [found for step, old, new in pairs for found in booleans_lost(old, new, (*place, step))]
