"""Place: where the runs of a sweep are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from robustdeploy.sweep.cells import Cell
from robustdeploy.sweep.folder import SweepFolder

Say = Callable[[str], object]
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


class Place(Protocol):
    """Makes runs and says how each ended."""

    def run(self, folder: SweepFolder, cells: Sequence[Cell], say: Say) -> Iterator[tuple[Cell, Ended]]:
        """Make the run of each cell in the sweep's folder, and yield the cells as they end."""
        ...
