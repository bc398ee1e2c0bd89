"""Stopwatch: the time spent on a piece of work, over all the processes that it took."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from robustdeploy.core.callback import Callback
from robustdeploy.core.files import atomic_write_json

EVERY_S = 5.0
"""Seconds between two writings; a kill loses no more of the count."""


class Stopwatch:
    """Counts wall time in a file. What an interrupted process did twice counts twice, since it took its time."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self.seconds = float(json.loads(path.read_text())["seconds"]) if path.is_file() else 0.0
        self._written = self.seconds
        self._last: float | None = None

    def tick(self) -> None:
        """Count the time since the last tick; the first one starts the clock."""
        now = self._clock()
        if self._last is not None:
            self.seconds += now - self._last
        self._last = now
        if self.seconds - self._written >= EVERY_S:
            self._write()

    def stop(self) -> float:
        """Count up to here, if the clock was started; return all seconds so far."""
        if self._last is not None:
            self.tick()
            self._last = None
            self._write()
        return self.seconds

    def _write(self) -> None:
        atomic_write_json(self._path, {"seconds": self.seconds})
        self._written = self.seconds


class Timed(Callback):
    """Starts a stopwatch with the first progress of the work that ``starts`` names; passes lines and progress on."""

    def __init__(self, callback: Callback, watch: Stopwatch, starts: str) -> None:
        self._callback, self._watch, self._starts = callback, watch, starts

    def say(self, line: str) -> None:
        """Say one line."""
        self._callback.say(line)

    def progress(self, what: str, done: int, total: int, **numbers: float) -> None:
        """Say how far ``what`` is."""
        if what.startswith(self._starts):
            self._watch.tick()
        self._callback.progress(what, done, total, **numbers)
