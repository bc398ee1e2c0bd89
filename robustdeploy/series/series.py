"""What a series is: jobs, each an ordinary run in one folder, some of which begin with what another one has made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from robustdeploy.core.given import is_run
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.report import Report
from robustdeploy.engine.run import Run, named_folder
from robustdeploy.errors import RobustdeployError, UsageError
from robustdeploy.report.stored import read_report

Say = Callable[[str], object]


@dataclass(frozen=True)
class Job:
    """One run to make."""

    name: str
    """Of its folder."""
    needs: tuple[str, ...] = ()
    """Names of the jobs that have to be done before it."""


class Series(Protocol):
    """Jobs, and the folder that their runs are made in."""

    @property
    def root(self) -> Path:
        """The folder."""
        ...

    def words(self, job: Job, root: Path) -> tuple[str, ...]:
        """Return the words behind ``robustdeploy`` that make a job's run in ``root``, which holds its files.

        They are said there, so a relative path in a recipe leads from the series' folder.
        """
        ...

    def files(self, job: Job) -> dict[str, bytes]:
        """Return what these words read, by its path in the folder; that of other jobs once they are done."""
        ...

    def missing(self, job: Job) -> str:
        """Say why a job is not done; nothing where it is."""
        ...


def report_in(root: Path, runs: Path) -> tuple[Report | None, str]:
    """Return the report of the run at ``root``, or why there is none that the run bears out."""
    if not root.exists():
        return None, "not begun"
    try:
        return read_report(Run.open(root, runs)), ""
    except RobustdeployError as error:
        return None, error.args[0] if error.args else type(error).__name__


def series_folder(runs: Path, name: str) -> Path:
    """Return the folder in ``runs`` for the runs of a series; a name that is none, or a run's, is a UsageError."""
    folder = named_folder(runs, name)
    if is_run(folder):
        raise UsageError(f"{folder} is one run, and a folder for several is needed; give another --name")
    return folder


def anywhere(recipe: Recipe) -> Recipe:
    """Return the recipe with paths that lead from any folder."""
    data, train = recipe.data, recipe.train
    if data.path is not None:
        data = data.model_copy(update={"path": Path(data.path).absolute()})
    if train.start is not None:
        train = train.model_copy(update={"start": Path(train.start).absolute()})
    held = recipe.gate_baseline and Path(recipe.gate_baseline).absolute()
    return recipe.model_copy(update={"data": data, "train": train, "gate_baseline": held})


class Queue:
    """The jobs that are still to be made, and which of them may begin."""

    def __init__(self, series: Series, jobs: Sequence[Job]) -> None:
        self._series = series
        self._left = list(jobs)
        self._names = {job.name for job in jobs}
        self._ended: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._left)

    def ready(self) -> Job | None:
        """Take the next job out whose needs are met; None where all that are left wait for others."""
        found = next((job for job in self._left if self._may_begin(job)), None)
        if found is not None:
            self._left.remove(found)
        return found

    def _may_begin(self, job: Job) -> bool:
        return not any(need in self._names and self._ended.get(need) != "" for need in job.needs)

    def ended(self, job: Job) -> None:
        """Note that a job has ended; whether it is done is asked of the series."""
        self._ended[job.name] = self._series.missing(job)

    def hopeless(self) -> Iterator[tuple[Job, str]]:
        """Take out the jobs whose needs have failed, each with the name of the first such need."""
        again = True
        while again:
            again = False
            for job in list(self._left):
                if failed := next((need for need in job.needs if self._ended.get(need)), None):
                    self._left.remove(job)
                    self._ended[job.name] = f"{failed} failed"
                    again = True
                    yield job, failed
