"""Sides: a report that is held beside another one, with the run it is of where that is at hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from robustdeploy.core.files import sha256_of_file
from robustdeploy.core.given import is_run
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.report import Report
from robustdeploy.engine.run import Run
from robustdeploy.report.stored import believed, read_report


@dataclass(frozen=True)
class Side:
    """A report, and what a run holds beside it."""

    report: Report
    recipe: Recipe | None = None
    """Its run's recipe; None where only the report is at hand."""
    root: Path | None = None
    """Its run's folder, whose evaluations hold an outcome of each image and the times of each call."""
    sha256: str = ""
    """Of the report's file; empty where that is not written yet."""


def side_of(path: Path, runs: Path) -> Side:
    """Return the report of a run, by folder or name, or that in a file; both are believed as far as a run bears out."""
    if path.is_file():
        run = Run.open(path.parent, runs) if is_run(path.parent) else None
        loaded, sha256 = believed(path), sha256_of_file(path)
        return Side(loaded, sha256=sha256) if run is None else Side(loaded, run.recipe, run.root, sha256)
    run = Run.open(path, runs)
    return Side(read_report(run), run.recipe, run.root, sha256_of_file(run.root / "report.json"))
