"""Margins of rules: how much worse than a baseline a number may be, ``1 pp`` of a share or ``5 %`` of a time."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import PlainValidator, WithJsonSchema

from robustdeploy.core.complaint import decimal_comma, shown
from robustdeploy.core.metrics import Metric
from robustdeploy.core.model import LONGEST_NUMBER

POINTS: Final = "pp"
PERCENT: Final = "%"
_FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(pp|%)?\s*")


def _margin(value: Any) -> str:
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    match = _FORM.fullmatch(text) if isinstance(text, str) and len(text) <= LONGEST_NUMBER else None
    if match is None:
        told = f"not {shown(value)}{decimal_comma(value)}"
        raise ValueError(f"must be 0, percentage points such as 1 pp, or per cent such as 5 %, {told}")
    if match[2] is None and float(match[1]):
        raise ValueError(
            f"has no unit; say {match[1]} pp of a share such as an accuracy, {match[1]} % of anything else"
        )
    return f"{match[1]} {match[2]}" if match[2] else "0"


Margin = Annotated[
    str,
    PlainValidator(_margin),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": r"^\d+(\.\d+)?\s*(pp|%)$"}, {"const": 0}, {"const": "0"}]}),
]
"""``1 pp``, ``5 %`` or ``0``."""


def margin_of(text: str) -> float:
    """Return a margin as a number: ``1 pp`` and ``1 %`` are both 0.01."""
    return float(text.split()[0]) / 100


def margin_problem(metric: Metric, text: str) -> str:
    """Say what is wrong with a margin on a metric; an empty text where nothing is."""
    number, _, unit = text.partition(" ")
    if unit == PERCENT and metric.is_share:
        return f"{metric.name} is a share, and a margin on it is in percentage points; say {number} {POINTS}"
    if unit == POINTS and not metric.is_share:
        return f"{metric.name} is in {metric.unit}, and a margin on it is in per cent; say {number} {PERCENT}"
    if metric.is_share and margin_of(text) >= 1:
        return f"{metric.name} is a share, so no net could be {number} {POINTS} worse, and this rule could never fail"
    return ""


Held = Literal["images", "runs", "counts"]
"""How a metric is held against a baseline: the same images, runs of a timing, or the counts themselves."""
_BY_IMAGE = ("clean_accuracy", "robust_accuracy", "class_clean_accuracy", "class_robust_accuracy", "top1_agreement")
_BY_RUN = ("latency_ms.p", "latency_ms.mean", "response_ms.", "throughput_images_s")


def held_by(metric: Metric) -> Held | None:
    """Return how a metric is held against a baseline; None where nothing on disk would tell."""
    if metric.name in _BY_IMAGE:
        return "images"
    if metric.name.startswith(_BY_RUN):
        return "runs"
    return "counts" if metric.support == "count" else None
