"""Limits of rules: a number, alone or in its metric's unit such as ``95 %``, ``20 ms`` or ``12.2M``, or the budget."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import PlainValidator, WithJsonSchema

from robustdeploy.core.amount import counts_from_text
from robustdeploy.core.complaint import shown
from robustdeploy.core.metrics import METRICS
from robustdeploy.core.model import number_from_text

BUDGET: Final = "budget"
_PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")
_TIME = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|us|µs)\s*")
_MILLISECONDS = {"ms": 1.0, "s": 1e3, "us": 1e-3, "µs": 1e-3}


def _number(value: Any) -> float:
    found = number_from_text(value)
    if isinstance(found, str):
        try:
            found = float(found)
        except ValueError:
            found = None
    # In Python true is the number 1.
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise ValueError(f"must be a number such as 0.95 or 95 %, not {shown(value)}")
    if not math.isfinite(found):
        raise ValueError(f"must be a finite number, not {shown(value)}")
    return float(found)


def _number_or_budget(value: Any) -> float | str:
    return value if value == BUDGET else _number(value)


_TEXT = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?\s*(%|ms|s|us|µs|[kMG]|[kKMG]i?B)$"}

Limit = Annotated[float, PlainValidator(_number), WithJsonSchema({"anyOf": [{"type": "number"}, _TEXT]})]
"""A finite number; ``8/255`` is accepted."""

LimitOrBudget = Annotated[
    float | Literal["budget"],
    PlainValidator(_number_or_budget),
    WithJsonSchema({"anyOf": [{"type": "number"}, _TEXT, {"const": BUDGET}]}),
]
"""The same, or the word ``budget``."""


def with_units(rule: Any) -> Any:
    """Return a rule as written, its limits in its metric's unit as numbers; a unit of another kind is a ValueError."""
    metric = METRICS.get(str(rule.get("metric"))) if isinstance(rule, Mapping) else None
    if metric is None:
        return rule
    changed = {
        side: _from_text(rule[side], metric.unit)
        for side in ("at_least", "at_most")
        if isinstance(rule.get(side), str) and rule[side] != BUDGET
    }
    return {**rule, **changed}


def _from_text(text: str, unit: str) -> Any:
    if match := _PERCENT.fullmatch(text):
        if unit != "fraction":
            raise ValueError(f"{text.strip()} is a share, and the rule's metric is in {unit}")
        return float(match[1]) / 100
    if match := _TIME.fullmatch(text):
        if unit != "ms":
            raise ValueError(f"{text.strip()} is a time, and the rule's metric is in {unit}")
        return float(match[1]) * _MILLISECONDS[match[2]]
    return counts_from_text(text, unit == "bytes") if unit in ("bytes", "MACs", "params") else text
