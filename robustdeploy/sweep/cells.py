"""Cells: the settings that a sweep goes over, and the name and overrides of the run of each combination."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from robustdeploy.core.files import sha256_of_text
from robustdeploy.core.model import Noun
from robustdeploy.errors import UsageError

MOST = 1000
"""Cells of one sweep; more of them are a slip of the keyboard."""
_LONGEST = 80
"""Characters of a cell's name, which is the name of its run."""
_OPENING, _CLOSING = "[{(", "]})"


@dataclass(frozen=True)
class Axis:
    """One field of the recipe and the values that it takes, as they were written."""

    field: str
    values: tuple[str, ...]


class Cell(Noun):
    """One combination: a run's name and the values of the fields that the sweep goes over."""

    name: str
    settings: dict[str, str]

    @property
    def overrides(self) -> tuple[str, ...]:
        """As ``--set`` takes them."""
        return tuple(f"{field}={value}" for field, value in self.settings.items())


def axis_from(text: str) -> Axis:
    """Read ``budget.ops=0.7,0.5``; commas inside brackets or quotes belong to a value."""
    field, equals, rest = text.partition("=")
    values = tuple(value.strip() for value in _parts(rest))
    if not equals or not field.strip() or not all(values):
        raise UsageError(f"--over {text} must look like budget.ops=0.7,0.5,0.3")
    if twice := next((value for value in values if values.count(value) > 1), None):
        raise UsageError(f"--over {text} has {twice} twice")
    return Axis(field.strip(), values)


def _parts(text: str) -> Iterator[str]:
    depth, quote, part = 0, "", ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        elif character == "," and depth <= 0:
            yield part
            part = ""
            continue
        part += character
    yield part


def cells_over(axes: Sequence[Axis]) -> tuple[Cell, ...]:
    """Return every combination of the values, the last axis varying fastest."""
    fields = [axis.field for axis in axes]
    if twice := next((field for field in fields if fields.count(field) > 1), None):
        raise UsageError(f"--over {twice} is given twice; give all its values together: --over {twice}=A,B")
    if not axes:
        raise UsageError("say what to go over, such as --over budget.ops=0.7,0.5,0.3 --over seed=0,1")
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST:
        raise UsageError(f"that is a sweep of {count:,} runs, and at most {MOST:,} are taken; give fewer values")
    made = [dict(zip(fields, values, strict=True)) for values in product(*(axis.values for axis in axes))]
    return tuple(Cell(name=_name(settings), settings=settings) for settings in made)


def _name(settings: Mapping[str, str]) -> str:
    """Return ``ops0.5-seed1``: readable, a file's name, and another one for other settings."""
    parts = [f"{field.rpartition('.')[2]}{value}" for field, value in settings.items()]
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(parts)).strip("._-")
    told = "-".join(f"{field}={value}" for field, value in settings.items())
    # What cannot stand in a name, or not whole, would let two cells share a run.
    if plain == "-".join(parts) and len(plain) <= _LONGEST:
        return plain
    return f"{plain[: _LONGEST - 9].strip('._-') or 'cell'}-{sha256_of_text(told)[:8]}"
