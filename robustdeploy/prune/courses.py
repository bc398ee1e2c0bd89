"""Courses: when masks on weights are set, how far the way to the budget is by then, and when they stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

EVERY = 10
"""Steps from one setting of masks that are trained to the next."""


class Course(Protocol):
    """When masks are set. All shares are of the steps that train scores."""

    @property
    def warmup(self) -> float:
        """Share before which no mask is set."""
        ...

    @property
    def freeze(self) -> float | None:
        """Share after which the masks stay; where a phase trains scores alone, or None, they stay at its end."""
        ...

    @property
    def at_once(self) -> bool:
        """Whether masks may be due when a phase that trains scores begins, before its first step."""
        ...

    def left(self, progress: float, end: float, steps: int, settings: int) -> float | None:
        """Return the share of the way to the budget still to go in masks that are due now, or None where none are.

        ``progress`` is the share done, ``end`` that at which the masks stay; ``steps`` were made since the warm-up, and
        the masks were set ``settings`` times.
        """
        ...


def check_shares(warmup: float, freeze: float) -> None:
    """Raise ValueError unless there is a way from ``warmup`` to ``freeze``."""
    if not 0 <= warmup < freeze < 1:
        raise ValueError(f"0 <= warmup < freeze < 1 is needed, not warmup {warmup} and freeze {freeze}")


def begun_parts(parts: int, way: float) -> int:
    """Return how many of so many equal ``parts`` of a way are done when the share ``way`` of it is."""
    # 0.3 / 0.1 is a little less than 3.
    return int(parts * way + 1e-9)


@dataclass(frozen=True)
class Cubic:
    """Masks close along Zhu and Gupta's cubic, which is steep first, in every EVERY-th step."""

    warmup: float
    freeze: float | None
    at_once: ClassVar[bool] = False

    def left(self, progress: float, end: float, steps: int, settings: int) -> float | None:
        """Return the cubic's height where a setting is due."""
        if steps % EVERY:
            return None
        part = (progress - self.warmup) / (end - self.warmup)
        return float((1 - min(1.0, max(0.0, part))) ** 3)


@dataclass(frozen=True)
class EveryStep:
    """Masks are set when a phase that trains scores begins, and chosen anew in every step of it."""

    freeze: float | None = None
    way: float = 0.0
    """Share of the way to the budget that is still to go until the masks stay."""
    warmup: ClassVar[float] = 0.0
    at_once: ClassVar[bool] = True

    def left(self, progress: float, end: float, steps: int, settings: int) -> float | None:
        """Return the same share always."""
        return self.way


@dataclass(frozen=True)
class Once:
    """All weights stay until masks are set for the budget, once; at ``freeze`` they stay."""

    freeze: float | None
    at: float | None = None
    """Where the masks are set before they stay, and what is kept still learns."""
    at_once: ClassVar[bool] = False

    @property
    def warmup(self) -> float:
        """Nothing is done before ``at``."""
        return self.at or 0.0

    def left(self, progress: float, end: float, steps: int, settings: int) -> float | None:
        """Return 0 where the masks are set the first time."""
        return None if self.at is None or settings else 0.0


@dataclass(frozen=True)
class Rounds:
    """So many rounds between ``warmup`` and the end, each of which leaves the same share of the one before.

    ``kept`` is the share that all of them leave.
    """

    warmup: float
    freeze: float | None
    rounds: int
    kept: float
    at_once: ClassVar[bool] = False

    def left(self, progress: float, end: float, steps: int, settings: int) -> float | None:
        """Return the way still to go where a new round has begun."""
        # The last round is the freeze itself.
        begun = 1 + begun_parts(self.rounds, (progress - self.warmup) / (end - self.warmup))
        if begun <= settings or begun >= self.rounds:
            return None
        return (self.kept ** (begun / self.rounds) - self.kept) / (1 - self.kept) if self.kept < 1 else 0.0


@dataclass(frozen=True)
class Repeated:
    """Masks are at the budget from the first step on, and chosen anew so many times at equal distances."""

    times: int
    freeze: float | None
    warmup: ClassVar[float] = 0.0
    at_once: ClassVar[bool] = True

    def left(self, progress: float, end: float, steps: int, settings: int) -> float | None:
        """Return 0 where a new part of the way has begun."""
        # One setting is that of the start.
        return 0.0 if begun_parts(self.times, progress / end) >= settings else None
