"""A run: one window of timing in a fresh process on a board, and what the board's sensors said meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from robustdeploy.devices import answers
from robustdeploy.devices.answers import array_of, impossible
from robustdeploy.devices.window import Window
from robustdeploy.onboard.telemetry import CLOCKS, MOST_READINGS, SILENT
from robustdeploy.onboard.timing import Nanoseconds
from robustdeploy.onboard.wire import Array

_CLOCKS_APART = 1.01
_LEAST_READINGS = 2


@dataclass(frozen=True)
class Telemetry:
    """Readings of a board's sensors: a row of whole numbers for each, `SILENT` where a sensor gave no answer."""

    channels: tuple[str, ...]
    values: Nanoseconds
    """Of shape readings × channels; the first columns are clocks."""
    words: tuple[str, ...] = ()
    """Texts that channels of words hold the numbers of."""

    def column(self, name: str) -> Nanoseconds | None:
        """Return all readings of one channel, or None where the board has none."""
        return self.values[:, self.channels.index(name)] if name in self.channels else None

    def of(self, kind: str) -> Iterator[tuple[str, Nanoseconds]]:
        """Return the channels of one kind, e.g. ``temperature_mc``, by what they measure."""
        for index, name in enumerate(self.channels):
            its, slash, what = name.partition("/")
            if slash and its == kind:
                yield what, self.values[:, index]

    def record(self) -> dict[str, Any]:
        """Return what is kept of it: readings by channel, None where a sensor gave no answer."""
        columns = {
            name: [None if value == SILENT else value for value in self.values[:, index].tolist()]
            for index, name in enumerate(self.channels)
        }
        return {"channels": columns, "words": list(self.words)}


@dataclass(frozen=True)
class Run:
    """One fresh process: its window, and what it cost to get there."""

    window: Window
    telemetry: Telemetry
    start_ns: int = 0
    """From the start of the process to its first answer."""
    load_ns: int = 0
    """Loading the toolchain and the engine."""


def run_from(window: Window, head: answers.Run, arrays: dict[str, Array], took_s: float) -> Run:
    """Check what came with a window of a fresh process; BoardError naming the field that cannot be."""
    values = array_of(arrays, "telemetry", "int64", (None, len(head.channels)), "run")
    if not _LEAST_READINGS <= len(values) <= MOST_READINGS:
        raise impossible("run", "telemetry", f"must hold {_LEAST_READINGS} to {MOST_READINGS:,} readings")
    if tuple(head.channels[: len(CLOCKS)]) != CLOCKS or len(set(head.channels)) != len(head.channels):
        raise impossible("run", "channels", f"must begin with {', '.join(CLOCKS)}, each name once")
    times = values[:, 0]
    if int(np.diff(times).min()) < 0:
        raise impossible("run", "telemetry", "holds readings that are not in the order of their times")
    # The watch begins before the window and ends after it, or what happened in between was not seen.
    if not times[0] <= window.began_ns <= window.began_ns + window.duration_ns <= times[-1]:
        raise impossible("run", "telemetry", "does not span the window")
    for name, nanoseconds in (("start_ns", head.start_ns), ("load_ns", head.load_ns)):
        if nanoseconds > took_s * 1e9 * _CLOCKS_APART:
            raise impossible("run", name, f"is {nanoseconds:,}, but the whole call took {took_s:.4g} s here")
    telemetry = Telemetry(tuple(head.channels), values, tuple(head.words))
    return Run(window, telemetry, head.start_ns, head.load_ns)
