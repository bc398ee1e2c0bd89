"""Ratios: what one training's speed is to another's, round by round, and what is wanted of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

FASTER, MASKS, WHOLE = 2.5, 1.05, 0.75
"""Wanted: our steps at least this many times as fast as the reference's; a step with masks and a whole pruned training
at most this many times as long as a dense one."""


@dataclass(frozen=True)
class Ratio:
    """One comparison, per round, with what is wanted of it."""

    name: str
    values: tuple[float, ...]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def value(self) -> float:
        """The median over rounds."""
        return median(self.values)

    @property
    def meets(self) -> bool | None:
        """Whether the median is as wanted; None where nothing is wanted of it."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most

    def plain(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {**asdict(self), "value": self.value, "meets": self.meets}


def ratios(rates: Mapping[str, Sequence[float]], share: float) -> Iterator[Ratio]:
    """Compare the rates (images per second and round); masks are trained for ``share`` of a pruned training's steps."""
    dense, masks, compact = (rates[name] for name in ("dense", "masks", "compact"))
    times = [share * d / m + (1 - share) * d / c for d, m, c in zip(dense, masks, compact, strict=True)]
    for name in (name for name in rates if name.startswith("reference")):
        yield Ratio(f"dense / {name}", _quotients(dense, rates[name]), at_least=FASTER)
        pruned = [d / time for d, time in zip(dense, times, strict=True)]
        yield Ratio(f"pruned, all steps / {name}", _quotients(pruned, rates[name]))
    yield Ratio("time of a step with masks / dense", _quotients(dense, masks), at_most=MASKS)
    yield Ratio("time of a step after the shrink / dense", _quotients(dense, compact))
    yield Ratio("time of all steps, pruned / dense", tuple(times), at_most=WHOLE)


def _quotients(above: Sequence[float], below: Sequence[float]) -> tuple[float, ...]:
    return tuple(a / b for a, b in zip(above, below, strict=True))
