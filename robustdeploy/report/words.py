"""Words: conditions of a measurement, written for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from robustdeploy.report.quantity import eps_text, number, quantity

_UNITS = {"s": "s", "ms": "ms", "us": "µs", "ns": "ns", "mhz": "MHz", "khz": "kHz", "c": "°C", "w": "W", "mb": "MB"}
_CLOCKS = {"observe": "clocks as the board had them", "locked": "clocks locked"}


def _counted(one: str, many: str) -> Callable[[float], str]:
    return lambda count: f"1 {one}" if count == 1 else f"{number(count)} {many}"


def _runs(what: str) -> Callable[[float], str]:
    return lambda count: f"{number(count) if count else 'no'} run{'' if count in (0, 1) else 's'} {what}"


def _at_a_time(before: str) -> Callable[[float], str]:
    return lambda count: f"{before}one image at a time" if count == 1 else f"{before}{number(count)} images at a time"


_NUMBERS: Mapping[str, Callable[[float], str]] = {
    "batch": _at_a_time(""),
    "judged_in_batches_of": _at_a_time("judged "),
    "runs": _counted("run", "runs"),
    "pairs_of_runs": _counted("pair of runs", "pairs of runs"),
    "undisturbed_runs": _runs("undisturbed"),
    "warm_runs": _runs("warmed up"),
    "harness_overhead_ms": lambda ms: f"an empty call takes {number(ms * 1e6, 2)} ns",
    "duration_s": lambda s: f"{number(s)} s in all",
    "cv": lambda share: f"samples vary by {quantity(share, 'fraction', 0)} of their mean",
    "drift": lambda share: f"they drift by {quantity(share, 'fraction', 0)} over the runs",
    "steps": _counted("step", "steps"),
    "restarts": _counted("restart", "restarts"),
    "queries": _counted("query", "queries"),
    "units": _counted("unit", "units"),
    "n": _counted("image", "images"),
}
"""How a number is told where its name alone would be jargon."""


def condition_text(key: str, value: Any) -> str:
    """Write one condition as ``50 steps`` or ``warmup 0.2 s``; a flag that is set as its name alone."""
    stem, _, suffix = key.rpartition("_")
    unit = f" {_UNITS[suffix]}" if stem and suffix in _UNITS else ""
    name = (stem if unit else key).replace("_", " ")
    if isinstance(value, bool):
        return name if value else f"not {name}"
    if isinstance(value, int | float):
        if key in _NUMBERS:
            return _NUMBERS[key](value)
        return f"{name} {eps_text(value) if key in ('eps', 'alpha') else number(value, 4)}{unit}"
    if key == "clocks" and value in _CLOCKS:
        return _CLOCKS[value]
    if key == "needs":
        return f"reads {value}"
    return f"{name} {listed(value) if isinstance(value, list | tuple) else value}{unit}"


def conditions_text(conditions: Mapping[str, Any]) -> str:
    """Write conditions as one comma-separated text; nested ones by their inner names, unset ones not at all."""
    told = []
    for key, value in conditions.items():
        if isinstance(value, Mapping):
            told.append(conditions_text(value))
        elif value is not None:
            told.append(condition_text(key, value))
    return ", ".join(filter(None, told))


def listed(values: Iterable[Any]) -> str:
    """Write values with commas between them; ``none`` where there are none."""
    return ", ".join(map(str, values)) or "none"


def time_text(seconds: float) -> str:
    """Write a time as people say it: ``38 s``, ``12 min``, ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
