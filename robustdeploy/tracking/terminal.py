"""The terminal: progress bars on stderr, plain dated lines where that is no terminal. stdout is left to results.

A training says the same on both: the epoch, the share that is kept, the latest loss and accuracy, and the time left.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from robustdeploy.core.callback import Callback, Event
from robustdeploy.foreign import one_line, sentence
from robustdeploy.tracking.stream import Stream

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

EVERY_S = 10.0
"""Seconds between two plain lines about the same work."""
EPOCH_S = 60.0
"""The same within an epoch of a training, which has a line of its own at its end."""
_SHOWN = {"ops": "kept", "nonzero_ops": "kept", "loss": "loss", "accuracy": "accuracy", "best_reward": "best reward"}
"""Numbers of a training or a search that are shown, and under which name; ``metrics.jsonl`` has all of a training's."""


class Terminal(Callback):
    """A context manager that shows what work is doing; ``quiet`` keeps only warnings, and what ends the work."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, float] = {}
        self._numbers: dict[str, dict[str, float]] = {}
        self._began: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> Terminal:
        # In a log file or a CI job bars would be thousands of lines.
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
            # What rich draws passes as it is. Its progress display takes stderr meanwhile, and what others print there
            # comes back through it: that is made printable first.
            drawn = Console(file=getattr(sys.stderr, "steering", sys.stderr))
            self._bars = Progress(*columns, console=drawn, transient=True)
            self._bars.start()
            sys.stderr = Stream(sys.stderr)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self, error: BaseException | None = None) -> None:
        """Take the bars off."""
        if self._bars is not None:
            self._bars.stop()

    def say(self, line: str) -> None:
        """Say one line; words of others in it begin no other."""
        if not self._quiet:
            self._print(line)

    def warn(self, line: str) -> None:
        """Say what even who wants quiet must know."""
        self._print(f"warning: {line}")

    def event(self, event: Event) -> None:
        """Say what happened to a stage, where that has words."""
        if event.text:
            self.say(f"{event.place}: {event.text}")

    def _print(self, line: str) -> None:
        line = sentence(line)
        if self._bars is not None:
            # Words of others may hold brackets, which rich would take for its markup.
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)

    def progress(self, what: str, done: int, total: int, **numbers: float) -> None:
        """Move a bar, or say a line now and then: of a training one per ``epoch`` of ``epochs``, where it has these."""
        if self._quiet:
            return
        # A resumed training does not begin at 0, and what was done before says nothing about the speed now.
        self._began.setdefault(what, (time.monotonic(), done))
        # A number that is told now and then stands until the next one.
        latest = self._numbers.setdefault(what, {})
        before = latest.get("epoch", numbers.get("epoch", 0) if done < total else 0)
        latest.update(numbers)
        if self._bars is not None:
            self._move_bar(self._bars, what, done, total)
        elif "epoch" in numbers:
            ended = numbers["epoch"] > before
            if self._is_time(what, EPOCH_S) or ended:
                left = self._left(what, done, total)
                self._say_progress(what, [*_of_training(latest), *([f"{left} left"] if left else [])])
        elif done < total and self._is_time(what, EVERY_S):
            told = [f"{name.replace('_', ' ')} {value:.3f}" for name, value in numbers.items()]
            left = self._left(what, done, total)
            self._say_progress(what, [f"{done} of {total}", *told, *([f"{left} left"] if left else [])])

    def _move_bar(self, bars: Progress, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            from rich.markup import escape

            self._tasks[what] = bars.add_task(escape(one_line(what)), total=total, numbers="")
        text = ", ".join(_of_training(self._numbers[what]))
        bars.update(self._tasks[what], completed=done, total=total, visible=done < total, numbers=text)

    def _is_time(self, what: str, every_s: float) -> bool:
        return time.monotonic() - self._said.get(what, -every_s) >= every_s

    def _say_progress(self, what: str, told: list[str]) -> None:
        self._said[what] = time.monotonic()
        self.say(f"{what}: {', '.join(told)}")

    def _left(self, what: str, done: int, total: int) -> str:
        """The time that the rest takes at the speed so far; nothing before there is one, and at the end."""
        began, first = self._began[what]
        if done <= first or done >= total:
            return ""
        return duration((time.monotonic() - began) / (done - first) * (total - done))


def _of_training(numbers: Mapping[str, float]) -> list[str]:
    """A training's latest numbers in words."""
    told = []
    if "epochs" in numbers:
        told.append(f"epoch {numbers['epoch']:.0f} of {numbers['epochs']:.0f}")
    return told + [f"{word} {numbers[name]:.3f}" for name, word in _SHOWN.items() if name in numbers]


def duration(seconds: float) -> str:
    """Return a time span as people say it: ``40 s``, ``5 min``, ``2 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
