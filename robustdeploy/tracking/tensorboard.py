"""TensorBoard: the numbers of every epoch as curves, in tracking/tensorboard of the run's folder."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustdeploy.core.callback import Callback, EpochRecord
from robustdeploy.core.recipe import Recipe
from robustdeploy.onboard.types import Probe
from robustdeploy.tracking.extras import probe_extra
from robustdeploy.tracking.numbers import numbers_of_epoch


@dataclass(frozen=True)
class TensorBoard:
    """Event files, in a folder for each training; ``tensorboard --logdir runs`` shows all runs together."""

    def probe(self) -> Probe:
        """Look for the package."""
        return probe_extra("tensorboard", ["tensorboard"])

    def open(self, run: Path, recipe: Recipe) -> Callback:
        """Listen to the trainings of a run."""
        return _Curves(run / "tracking" / "tensorboard")


class _Curves(Callback):
    """Writes event files below ``folder``.

    Not by torch's SummaryWriter: that writes from a thread, which on a full disk dies with a traceback of its own.
    """

    def __init__(self, folder: Path) -> None:
        # TensorBoard's own copies of the messages: TensorFlow's would need TensorFlow.
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._session, self._summary, self._writer = Event, SessionLog, Summary, RecordWriter
        self._folder = folder
        self._files: dict[str, Path] = {}

    def history(self, place: str, records: Sequence[EpochRecord], *, anew: bool) -> None:
        """Begin a file whose first event takes back what was told before; the epochs so far follow."""
        folder = self._folder / place
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names.
        number = 1 + len(list(folder.glob("events.out.tfevents.*")))
        self._files[place] = folder / f"events.out.tfevents.{number:010d}"
        start = self._event(step=0, session_log=self._session(status=self._session.START))
        epochs = (self._epoch(record["epoch"], record) for record in records)
        # From version 2 on, a start event takes back the steps that come after it.
        self._write(place, [self._event(file_version="brain.Event:2"), start, *epochs])

    def metrics(self, place: str, epoch: int, numbers: EpochRecord) -> None:
        """Add a point to each curve."""
        self._write(place, [self._epoch(epoch, numbers)])

    def _epoch(self, epoch: int, record: EpochRecord) -> Any:
        values = (self._summary.Value(tag=n, simple_value=value) for n, value in numbers_of_epoch(record).items())
        return self._event(step=epoch, summary=self._summary(value=values))

    def _write(self, place: str, events: Iterable[Any]) -> None:
        # Opened for each write: a kill loses no epoch that was told.
        with self._files[place].open("ab") as file:
            writer = self._writer(file)
            for event in events:
                event.wall_time = time.time()
                writer.write(event.SerializeToString())


plugin = TensorBoard
