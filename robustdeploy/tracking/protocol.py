"""What a tracker is: a plug-in that listens to a run."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from robustdeploy.core.callback import Callback
from robustdeploy.core.recipe import Recipe
from robustdeploy.onboard.types import Probe


class Tracker(Protocol):
    """Options of a tracker, and how it begins to listen."""

    def probe(self) -> Probe:
        """Say whether it can work here and, if not, the fix. It is asked before any work and imports nothing heavy."""
        ...

    def open(self, run: Path, recipe: Recipe) -> Callback:
        """Return what listens to the run in the folder ``run`` from now on.

        It is called between two steps of the work, which waits meanwhile: whatever may hang needs a time limit.
        It may be a run that was tracked before: what ``history`` then tells may be known already.
        """
        ...
