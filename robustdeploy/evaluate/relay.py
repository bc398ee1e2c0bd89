"""Relay: the latency of a target of several boards is that of the first one; where that is lost, of the next one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from robustdeploy.core.report import Measurement
from robustdeploy.core.subject import Subject
from robustdeploy.devices.board import Board
from robustdeploy.devices.fleet import Fleet
from robustdeploy.evaluate.latency import Latency, Stopwatch
from robustdeploy.evaluate.latency_rows import measured_latency


@dataclass
class Relay:
    """One stopwatch for each board that is timed; times of two boards are never mixed."""

    fleet: Fleet
    stopwatch: Callable[[Board], Stopwatch]
    """Makes that of a board."""
    _held: dict[Board, Stopwatch] = field(default_factory=dict, init=False)

    def take(self) -> None:
        """Time the first board that is left once more."""
        self.fleet.first(lambda board: self._of(board).take())

    def finish(self) -> Latency | None:
        """Take what is left to be timed, all of it anew on the next board where the first one is lost."""
        return self.fleet.first(lambda board: self._of(board).finish())

    def rows(self, latency: Latency | None, subject: Subject) -> tuple[Measurement, ...]:
        """Return the rows of what `finish` gave; of several boards, they say which one it is of."""
        rows, fleet = measured_latency(latency, subject), self.fleet
        if len(fleet.began) == 1:
            return rows
        which = {"board": fleet.name_of(fleet.boards[0])}
        return tuple(row.model_copy(update={"conditions": {**row.conditions, **which}}) for row in rows)

    def _of(self, board: Board) -> Stopwatch:
        if board not in self._held:
            self._held[board] = self.stopwatch(board)
        return self._held[board]
