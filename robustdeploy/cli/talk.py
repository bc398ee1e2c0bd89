"""Talk on stderr: progress bars on a terminal, plain dated lines otherwise. stdout is left to results."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

EVERY_S = 10.0
"""Seconds between two plain lines about the same work."""


class TerminalTalk:
    """A context manager that says what a pipeline is doing; ``quiet`` keeps only what ends the work."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, float] = {}

    def __enter__(self) -> TerminalTalk:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description:<24}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[numbers]}"),
            )
            self._bars = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def say(self, line: str) -> None:
        """Say one line."""
        if self._quiet:
            return
        if self._bars is not None:
            self._bars.console.print(line, markup=False, highlight=False)
        else:
            print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)

    def progress(self, what: str, done: int, total: int, **numbers: float) -> None:
        """Move a bar, or now and then say a line."""
        if self._quiet:
            return
        text = " ".join(f"{name} {value:.3f}" for name, value in numbers.items())
        if self._bars is None:
            self._say_now_and_then(what, done, total, text)
            return
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total, numbers="")
        task = self._tasks[what]
        if text:
            self._bars.update(task, numbers=text)
        self._bars.update(task, completed=done, total=total, visible=done < total)

    def _say_now_and_then(self, what: str, done: int, total: int, text: str) -> None:
        now = time.monotonic()
        if now - self._said.get(what, -EVERY_S) >= EVERY_S and done < total:
            self._said[what] = now
            self.say(f"{what}: {done} of {total}" + (f" ({text})" if text else ""))
