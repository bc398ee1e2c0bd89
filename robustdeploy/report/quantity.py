"""Quantity: a number with its unit, written so that rounding never hides what matters."""

from __future__ import annotations

from robustdeploy.core.report import Measurement

SHARES = frozenset({"fraction", "share", "proportion"})
"""Units whose values lie in [0, 1] and are shown in percent."""
_OF_IMAGES = ("l2", "linf", "l1", "of the dense net's")
"""Other units of what is measured on images."""


def quantity(value: float, unit: str, digits: int = 1) -> str:
    """Write ``value`` with its unit; a share that is not quite 0 or 1 never reads 0 or 100 %."""
    if unit in SHARES:
        return f"{_percent(value, digits)} %"
    whole = float(value).is_integer() or abs(value) >= 10 ** (digits + 2)
    return f"{number(value, digits + 2) if whole else f'{value:#.{digits + 2}g}'} {unit}".rstrip()


def number(value: float, digits: int = 3) -> str:
    """Write ``value`` with ``digits`` significant digits, whole numbers in full with thousands separated."""
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def points(share: float) -> str:
    """Write a difference of two shares as ``+0.5 points`` or ``−0.5 points``."""
    return f"{100 * share:+.1f} points".replace("-", "−").replace("+0.0", "0.0").replace("−0.0", "0.0")


def _percent(value: float, digits: int) -> str:
    # 99.96 % must not become 100.0 %, which would claim that nothing failed.
    for places in range(digits, digits + 6):
        text = f"{100 * value:.{places}f}"
        if value in (0, 1) or float(text) not in (0, 100):
            return text
    return f"{100 * value:.3g}"


def apart(value: float, limit: float, unit: str) -> tuple[str, str]:
    """Write a value and a limit with the fewest digits that keep two unequal numbers apart."""
    # "0.95 is required, found 0.95" would leave a reader without the reason for a FAIL.
    for digits in range(1, 12):
        pair = quantity(value, unit, digits), quantity(limit, unit, digits)
        if pair[0] != pair[1] or value == limit:
            return pair
    return repr(value), repr(limit)


def interval(row: Measurement, digits: int = 1) -> str:
    """Write a row's interval as ``43.1 to 49.3 %``; an open end is infinite, and no interval is an empty text."""
    if row.low is None and row.high is None:
        return ""
    bare = "fraction" if row.unit in SHARES else ""
    low, high = ("" if bound is None else quantity(bound, bare, digits) for bound in (row.low, row.high))
    unit = "" if bare else f" {row.unit}".rstrip()
    low = low.removesuffix(" %") if high else low
    return f"{low} to {high}{unit}" if low and high else f"at least {low}{unit}" if low else f"at most {high}{unit}"


def confidence(row: Measurement) -> float:
    """Return the confidence of a row's interval: 95 % unless its conditions say otherwise."""
    found = row.conditions.get("confidence", 0.95)
    return found if isinstance(found, float) and 0 < found < 1 else 0.95


def samples(row: Measurement) -> str:
    """Write on how many samples a row rests: images where a share of them, or how far they are moved, is meant."""
    noun = "image" if row.unit in SHARES or row.unit in _OF_IMAGES else "sample"
    return f"{row.n:,} {noun}{'' if row.n == 1 else 's'}"


def eps_text(eps: float) -> str:
    """Write a radius of at most 1 as ``8/255`` where it is a whole number of grey levels, else as a decimal."""
    levels = eps * 255
    return f"{round(levels)}/255" if eps <= 1 and abs(levels - round(levels)) < 1e-6 else f"{eps:.4g}"
