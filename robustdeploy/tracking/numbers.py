"""Numbers by name: those of an epoch and those of a report, as trackers of curves and tables want them."""

from __future__ import annotations

from collections import Counter

from robustdeploy.core.callback import EpochRecord
from robustdeploy.core.metrics import AFTER_QUERIES
from robustdeploy.core.report import Measurement, Report

_TELL_APART = ("class", "eps", "images", "found_on")
"""Conditions in which rows of the same metric, subject and attack may differ."""


def numbers_of_epoch(record: EpochRecord) -> dict[str, float]:
    """Return the numbers of an epoch by name, without words such as its phase's."""
    # Curves take numbers alone.
    named = {name: value for name, value in record.items() if isinstance(value, int | float)}
    return {name: float(value) for name, value in named.items() if name != "epoch"}


def numbers_of_report(report: Report) -> dict[tuple[str, str], float]:
    """Return the value of every row by its subject and a name that it has alone among the subject's rows."""
    numbers: dict[tuple[str, str], float] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for row in report.measurements:
        key = row.subject, _name(row)
        seen[key] += 1
        # A later metric may have rows that differ in a condition that is not known here; none may overwrite another.
        name = key[1] if seen[key] == 1 else f"{key[1]} {seen[key]}"
        numbers[row.subject, name] = row.value
    return numbers


def _name(row: Measurement) -> str:
    apart = (*_TELL_APART, "queries") if row.metric == AFTER_QUERIES else _TELL_APART
    told = [f"{key} {_short(row.conditions[key])}" for key in apart if key in row.conditions]
    return " ".join([row.metric, *([row.attack] if row.attack else []), *told])


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
