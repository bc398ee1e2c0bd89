"""Place: where the runs of a series are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from robustdeploy.series.series import Job, Say, Series

_CODES = {
    2: "wrong usage, recipe or file",
    3: "no sound net",
    4: "the surroundings failed",
}


@dataclass(frozen=True)
class Ended:
    """How a run ended, and where it says so in words elsewhere, these."""

    code: int
    said: str = ""

    @property
    def why(self) -> str:
        """In words."""
        if self.said:
            return self.said
        if self.code < 0:
            return f"it was killed by signal {-self.code}"
        told = _CODES.get(self.code)
        return f"it ended with exit code {self.code}" + (f", {told}" if told else "")


def not_begun(need: str) -> Ended:
    """How a run ended that begins with what another one makes, which failed."""
    return Ended(4, f"it begins with {need}, which failed")


class Place(Protocol):
    """Makes runs and says how each ended."""

    def run(self, series: Series, jobs: Sequence[Job], say: Say) -> Iterator[tuple[Job, Ended]]:
        """Make the runs of ``jobs`` in the series' folder, those that others need before these; yield them as they end.

        A job whose needs fail is not begun. Needs that are not among ``jobs`` are done already.
        """
        ...
