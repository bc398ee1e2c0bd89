"""Trackers: several listeners as one. One that fails is left out with a warning, and never fails the run."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from robustdeploy.core.callback import Callback, EpochRecord, Event
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.report import Report
from robustdeploy.foreign import sentence
from robustdeploy.tracking.protocol import Tracker
from robustdeploy.tracking.terminal import Terminal

_SECRET = re.compile(r"(?<=://)[^/\s@]*@")
"""User and password in an address."""
_CLOSED = (OSError, ValueError)
"""What Python raises where stderr is closed: nobody is there to be told."""
_LONGEST = 200
"""Characters of a tracker's error that a warning repeats."""


@dataclass(frozen=True, eq=False)
class _Listener:
    name: str
    callback: Callback
    of_run: bool
    """Opened for the run that is being told of; listeners of the caller's stay from one run to the next."""


class Trackers(Callback):
    """A context manager that hands all it hears to the terminal and to each of ``trackers``; leaving it closes them.

    Plug-ins open as soon as the run's folder is known. A Callback among ``trackers`` hears everything from the start.
    ``quiet`` leaves the terminal only what must not be missed.
    """

    def __init__(self, trackers: Sequence[Tracker | Callback] = (), *, quiet: bool = False) -> None:
        self._terminal = Terminal(quiet)
        self._plugins = [each for each in trackers if not isinstance(each, Callback)]
        heard = [each for each in trackers if isinstance(each, Callback)]
        self._listeners = [_Listener(type(callback).__name__, callback, of_run=False) for callback in heard]
        self._run: Path | None = None

    def __enter__(self) -> Trackers:
        with suppress(*_CLOSED):
            self._terminal.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)

    def say(self, line: str) -> None:
        """Hand on one line."""
        self._tell(lambda callback: callback.say(line))

    def progress(self, what: str, done: int, total: int, **numbers: float) -> None:
        """Hand on how far ``what`` is."""
        self._tell(lambda callback: callback.progress(what, done, total, **numbers))

    def begin(self, run: Path, recipe: Recipe) -> None:
        """Open the plug-ins for the run in this folder; told again of the same run, go on."""
        # Each verb of one command says which run it is about, and a tracker opens once.
        if run.resolve() == self._run:
            return
        self._close([each for each in self._listeners if each.of_run], None)
        self._run = run.resolve()
        self._tell(lambda callback: callback.begin(run, recipe))
        for plugin in self._plugins:
            self._open(plugin, run, recipe)

    def event(self, event: Event) -> None:
        """Hand on what happened to a stage."""
        self._tell(lambda callback: callback.event(event))

    def history(self, place: str, records: Sequence[EpochRecord], *, anew: bool) -> None:
        """Hand on the epochs so far of a training."""
        self._tell(lambda callback: callback.history(place, records, anew=anew))

    def metrics(self, place: str, epoch: int, numbers: EpochRecord) -> None:
        """Hand on the numbers of an epoch."""
        self._tell(lambda callback: callback.metrics(place, epoch, numbers))

    def report(self, report: Report, files: Sequence[Path]) -> None:
        """Hand on the report."""
        self._tell(lambda callback: callback.report(report, files))

    def close(self, error: BaseException | None = None) -> None:
        """Close all; the terminal last, since another may fail in closing."""
        self._close(list(self._listeners), error)
        self._run = None
        with suppress(*_CLOSED):
            self._terminal.close(error)

    def _tell(self, call: Callable[[Callback], None]) -> None:
        with suppress(*_CLOSED):
            call(self._terminal)
        # A copy, since one that fails is removed while the others still listen.
        for listener in list(self._listeners):
            if not self._works(listener.name, call, listener.callback):
                self._listeners.remove(listener)

    def _open(self, plugin: Tracker, run: Path, recipe: Recipe) -> None:
        name = type(plugin).__name__

        def opened() -> None:
            self._listeners.append(_Listener(name, plugin.open(run, recipe), of_run=True))

        self._works(name, opened)

    def _close(self, listeners: Sequence[_Listener], error: BaseException | None) -> None:
        for listener in listeners:
            self._works(listener.name, listener.callback.close, error)
            self._listeners.remove(listener)

    def _works(self, name: str, call: Callable[..., None], *given: Any) -> bool:
        """Make a tracker's call, and say so where it fails."""
        try:
            # stdout is for results alone, whatever a tracker's library prints there.
            with redirect_stdout(sys.stderr):
                call(*given)
        # Some libraries end the process when a server refuses them; that must not end hours of training.
        except (Exception, SystemExit) as error:
            self._warn(name, error)
            return False
        return True

    def _warn(self, name: str, error: BaseException) -> None:
        # Errors of web libraries repeat the whole address, with its password.
        why = _SECRET.sub("…@", sentence(error)) or type(error).__name__
        why = why if len(why) <= _LONGEST else why[: _LONGEST - 1] + "…"
        with suppress(*_CLOSED):
            self._terminal.warn(f"the tracker {name} failed and is left out from here on; the work goes on: {why}")
