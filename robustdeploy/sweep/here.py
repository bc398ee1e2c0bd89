"""Here: the runs of a sweep on this machine, one after another, each in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from robustdeploy.core.interrupts import interrupted, stop_if_interrupted
from robustdeploy.sweep.cells import Cell
from robustdeploy.sweep.folder import SweepFolder
from robustdeploy.sweep.place import Ended, Say

_LOOK_S = 0.1


@dataclass(frozen=True)
class Here:
    """One process at a time: two trainings on the same cores would disturb each other's latency."""

    quiet: bool = False

    def run(self, folder: SweepFolder, cells: Sequence[Cell], say: Say) -> Iterator[tuple[Cell, Ended]]:
        """Make the runs in their order; what a run says goes to this process's stderr."""
        for number, cell in enumerate(cells, 1):
            say(f"sweep: run {number} of {len(cells)}, {cell.name}")
            yield cell, Ended(self._ended(folder, cell))

    def _ended(self, folder: SweepFolder, cell: Cell) -> int:
        stop_if_interrupted()
        quiet = ["--quiet"] if self.quiet else []
        process = subprocess.Popen(
            [sys.executable, "-m", "robustdeploy", *folder.words(cell, folder.root), *quiet],
            stdout=subprocess.DEVNULL,
            # Of its own, so that Ctrl-C reaches it once and from here alone: a second signal would end it at once.
            start_new_session=True,
        )
        asked = False
        while True:
            try:
                code = process.wait(_LOOK_S)
            except subprocess.TimeoutExpired:
                if interrupted() and not asked:
                    process.send_signal(signal.SIGINT)
                    asked = True
                continue
            stop_if_interrupted()
            return code
