"""The base of every noun that users write or read: frozen, strict, and tolerant of fractions such as ``8/255``."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

LONGEST_NUMBER = 100
"""Characters of a number in words; a longer text is none, and would only take time to search."""
_FRACTION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)\s*")


def number_from_text(value: Any) -> Any:
    """Turn ``"8/255"`` into a float and leave anything else alone; a zero denominator is a ValueError."""
    if isinstance(value, str) and len(value) <= LONGEST_NUMBER and (match := _FRACTION.fullmatch(value)):
        if float(match[2]) == 0:
            raise ValueError(f"{value.strip()} divides by zero")
        return float(match[1]) / float(match[2])
    return value


Number = Annotated[float, BeforeValidator(number_from_text)]


class Noun(BaseModel):
    """A frozen record that refuses keys it does not know and numbers that are not finite."""

    # Frozen: what was fingerprinted must not change afterwards. Unknown keys are refused, since a misspelt one would be
    # a default in silence.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
