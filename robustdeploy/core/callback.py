"""Callback: what work tells of itself while it runs, and silence, where nobody listens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from robustdeploy.core.recipe import Recipe
    from robustdeploy.core.report import Report

EpochRecord = Mapping[str, Any]
"""One line of ``metrics.jsonl``: ``epoch``, from 1, and the epoch's numbers; now and then a word, such as ``phase``."""

EventKind = Literal["begun", "resumed", "returned", "skipped", "misfit", "sealed", "interrupted", "lost", "failed"]


@dataclass(frozen=True)
class Event:
    """Something that happened to a stage of a run."""

    kind: EventKind
    """``returned``: a training has gone back to a sound state; ``misfit``: what was built is for another device than
    is there. The others are what their words say."""
    stage: str
    place: str
    """The stage's folder in the run, e.g. ``train``."""
    text: str = ""
    """What people should read about it; empty where there is nothing to say."""


class Callback:
    """Hears what work tells. Each method does nothing here: a listener has only those for what it wants to hear."""

    def say(self, line: str) -> None:
        """Hear one line for people."""

    def progress(self, what: str, done: int, total: int, **numbers: float) -> None:
        """Hear how far ``what`` is, with its latest numbers; for a training that is every step."""

    def begin(self, run: Path, recipe: Recipe) -> None:
        """Hear the run's folder and its recipe, as soon as they are known. All that follows is about this run."""

    def event(self, event: Event) -> None:
        """Hear what happened to a stage."""

    def history(self, place: str, records: Sequence[EpochRecord], *, anew: bool) -> None:
        """Hear all epochs so far of the training in ``place``, as it begins, resumes or has gone back.

        Later epochs that were told before are void. ``anew``: it begins from nothing.
        """

    def metrics(self, place: str, epoch: int, numbers: EpochRecord) -> None:
        """Hear the numbers of one more finished epoch, which is safe on the disk and never told again."""

    def report(self, report: Report, files: Sequence[Path]) -> None:
        """Hear the judged report, and the files that show it."""

    def close(self, error: BaseException | None = None) -> None:
        """Hear that nothing more follows, and which ``error`` ended the work, if one did."""


SILENT = Callback()
"""Where nobody listens; the default of the Python API."""
