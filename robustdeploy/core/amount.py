"""Amount: a limit on a net's cost, as a fraction of what the dense net costs or as a number of its own."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from robustdeploy.core.complaint import decimal_comma, shown
from robustdeploy.core.model import LONGEST_NUMBER, number_from_text

_SCALE = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)(?:[eE]([+-]?\d{1,2}))?"
_COUNT = re.compile(rf"\s*{_NUMBER}\s*(%|[kKMG]?)\s*")
_BYTES = re.compile(rf"\s*{_NUMBER}\s*(%|[kKMG]?B?|[KMG]iB)\s*")
_COUNT_SAYS = "0.3, 30% or 12.2M"
_BYTES_SAYS = "0.3, 30% or 64KiB"


def _refusal(examples: str, value: Any) -> ValueError:
    return ValueError(
        f"must be a fraction above 0 and at most 1, or a whole number above 1, such as {examples}, not {shown(value)}"
        f"{decimal_comma(value)}"
    )


def _number(pattern: re.Pattern[str], examples: str, value: Any) -> Any:
    """Turn a text such as ``12.2M`` into a float; leave what is no text, and ``8/255``, to the usual ways."""
    if not isinstance(value, str) or isinstance(value := number_from_text(value), float):
        return value
    if len(value) > LONGEST_NUMBER or (match := pattern.fullmatch(value)) is None:
        raise _refusal(examples, value)
    # Decimal, because 12.2 times a million is not a whole number in binary.
    number = Decimal(match[1]) * Decimal(10) ** int(match[2] or 0)
    if match[3] == "%":
        if not 0 < number <= 100:
            raise _refusal(examples, value)
        return float(number / 100)
    if not match[3]:
        return float(number)
    unit = match[3].removesuffix("B").replace("K", "k").replace("ki", "Ki")
    if (whole := int(number * _SCALE[unit])) <= 1:
        raise _refusal(examples, value)
    return float(whole)


def counts_from_text(text: str, of_bytes: bool) -> Any:
    """Return ``12.2M``, or of bytes ``64KiB``, as a number, and any other text as it is."""
    try:
        return _number(_BYTES, _BYTES_SAYS, text) if of_bytes else _number(_COUNT, _COUNT_SAYS, text)
    except ValueError:
        return text


def _checked(examples: str, value: float) -> float:
    # `not … >` also refuses NaN. 1.5 is neither a fraction nor a number of anything.
    if not value > 0 or (value > 1 and not value.is_integer()):
        raise _refusal(examples, int(value) if value.is_integer() else value)
    return value


def _schema(text: str, description: str) -> WithJsonSchema:
    ways = [
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        {"type": "integer", "minimum": 1},
        {"type": "string", "pattern": f"^{text}$"},
    ]
    return WithJsonSchema({"anyOf": ways, "description": description})


_PERCENT = r"(?!0+(?:\.0+)?\s*%)(?:100(?:\.0+)?|\d{1,2}(?:\.\d+)?)\s*%"

Amount = Annotated[
    float,
    BeforeValidator(lambda value: _number(_COUNT, _COUNT_SAYS, value)),
    AfterValidator(lambda value: _checked(_COUNT_SAYS, value)),
    _schema(rf"(?:{_PERCENT}|\d+(?:\.\d+)?\s*[kKMG])", "A fraction of the dense net, or a number such as 12.2M."),
]
"""At most 1 it is a fraction of the dense net; above 1, a whole number. ``30%``, ``12.2M`` and ``64k`` are accepted."""

Bytes = Annotated[
    float,
    BeforeValidator(lambda value: _number(_BYTES, _BYTES_SAYS, value)),
    AfterValidator(lambda value: _checked(_BYTES_SAYS, value)),
    _schema(
        rf"(?:{_PERCENT}|\d+(?:\.\d+)?\s*(?:[kKMG]?B|[kKMG]|[KMG]iB))",
        "A fraction of the dense net, or a number of bytes such as 64KiB.",
    ),
]
"""The same in bytes: ``KiB`` and ``MiB`` are powers of 1024, ``k`` and ``kB`` of 1000."""


_TIME = re.compile(rf"\s*{_NUMBER}\s*(ms|s|us|µs)\s*")
_MICROSECONDS = {"us": 1, "µs": 1, "ms": 1000, "s": 1_000_000}
_TIME_SAYS = "0.5, 50% or 5ms"


def _time(value: Any) -> float | str:
    """Return a fraction as a number, and a time as text with its unit; a number above 1 could be of any unit."""
    refusal = ValueError(
        f"must be a fraction above 0 and at most 1, or a time with its unit, such as {_TIME_SAYS}, not {shown(value)}"
        f"{decimal_comma(value)}"
    )
    if isinstance(value, str) and len(value) <= LONGEST_NUMBER and (match := _TIME.fullmatch(value)) is not None:
        if not 0 < microseconds(value) <= 3.6e9:
            raise refusal
        return f"{value[: match.start(3)].strip()}{match[3]}"
    try:
        fraction = _number(_COUNT, _TIME_SAYS, value)
    except ValueError:  # it speaks of whole numbers
        raise refusal from None
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        raise refusal
    return float(fraction)


def microseconds(text: str) -> float:
    """Return what ``5ms`` is in microseconds."""
    match = _TIME.fullmatch(text)
    assert match is not None
    return float(Decimal(match[1]) * Decimal(10) ** int(match[2] or 0) * _MICROSECONDS[match[3]])


_TIME_WAYS = [
    {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    {"type": "string", "pattern": rf"^(?:{_PERCENT}|\d+(?:\.\d+)?\s*(?:ms|s|us|µs))$"},
]
Latency = Annotated[
    float | str,
    BeforeValidator(_time),
    WithJsonSchema({"anyOf": _TIME_WAYS, "description": "A fraction of the dense net's time, or a time such as 5ms."}),
]
"""A number is a fraction of the dense net's time; a time is kept as text, with its unit."""


def absolute(amount: float, dense: float) -> float:
    """Return the limit that ``amount`` means for a net whose dense form costs ``dense``."""
    # A limit of one operation has no use, so 1 can mean all of them.
    # Rounded, since 0.3712 of 625 is 232, and not the little less that floats make of it.
    return round(amount * dense, 6) if amount <= 1 else amount
