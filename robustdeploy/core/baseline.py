"""The baseline: an earlier run that rules hold a report against, and what became of each row since."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from robustdeploy.core.gate import Outcome
from robustdeploy.core.model import Noun
from robustdeploy.core.subject import SubjectName


class Since(Noun):
    """What became of one row since the baseline. Of shares a change is a difference, of anything else a ratio."""

    metric: str
    subject: SubjectName
    attack: str | None = None
    class_name: str | None = None
    how: Literal["paired", "unpaired", "runs", "counts"] | None = None
    """On the same images, by two intervals, by runs of a timing, or counted; None where nothing was found."""
    then: float | None = None
    """What it was for the baseline; of times a mean over its runs."""
    now: float | None = None
    change: float | None = None
    """Now less then, or now over then."""
    low: float | None = None
    """Lower bound of the change; None where it cannot be told, e.g. because noise could have moved it."""
    high: float | None = None
    confidence: float | None = None
    """That of the interval: the error is shared among all accuracies that are asked for."""
    n: int = Field(default=0, ge=0)
    """Images, or runs on the side that has fewer."""
    lost: int = Field(default=0, ge=0)
    """Images that were right for the baseline alone; told where they are paired."""
    gained: int = Field(default=0, ge=0)
    why: str = ""
    """Why there is no change to judge, or only one side of it."""
    doubt: str = ""
    """Checks that speak against the baseline's own number, which may have been too good."""


class Baseline(Noun):
    """An earlier run, and what became of each row that a rule holds against it."""

    run: str
    """Name of the run."""
    sha256: str
    """SHA-256 of its ``report.json``."""
    created: str
    """When that report was made; UTC, ISO 8601."""
    outcome: Outcome
    """Its own verdict."""
    rows: tuple[Since, ...] = ()

    @property
    def text(self) -> str:
        """One line that names it: ``main-1b46a8c2 (report 0a1b2c3d4e5f, PASS)``."""
        return f"{self.run} (report {self.sha256[:12]}, {self.outcome})"

    @property
    def told(self) -> str:
        """The same with the whole hash, for a rendering that says it once."""
        return f"{self.run}, {self.outcome}, of {self.created}, SHA-256 of its report {self.sha256}"
