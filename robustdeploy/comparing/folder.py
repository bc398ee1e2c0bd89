"""The folder of a table: the plan as it was read, and beside it a run for every row and seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from robustdeploy.comparing.rows import RowRun
from robustdeploy.core.comparison import PRETRAIN, Comparison
from robustdeploy.core.files import atomic_write_text, storage_errors
from robustdeploy.core.load import resolved_yaml, says_the_same
from robustdeploy.core.reading import read_bounded
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.target import Target
from robustdeploy.core.yaml_source import text_from_value
from robustdeploy.engine.manifest import FILE_NAME
from robustdeploy.engine.places import SERIES, net_place
from robustdeploy.engine.run import Run
from robustdeploy.errors import RobustdeployError, UsageError
from robustdeploy.series.series import Job, report_in

PLAN: Final = "plan.yaml"
ROWS, TARGETS = "rows", "targets"


@dataclass(frozen=True)
class TableFolder:
    """A table on the disk."""

    root: Path
    comparison: Comparison
    target: Target
    runs: tuple[RowRun, ...]

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.root.resolve().name

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All runs."""
        return tuple(run.job for run in self.runs)

    def run(self, name: str) -> RowRun:
        """Return the run of a folder's name."""
        return next(run for run in self.runs if run.name == name)

    def jobs_for(self, rows: Sequence[str]) -> tuple[Job, ...]:
        """Return the runs of some rows, and what these begin with; of no rows in particular, all."""
        wanted = [run for run in self.runs if not rows or run.row in rows]
        names = {name for run in wanted for name in (*run.needs, run.name)}
        return tuple(run.job for run in self.runs if run.name in names)

    def words(self, job: Job, root: Path) -> tuple[str, ...]:
        """Return the words behind ``robustdeploy`` that make a row's run in ``root``; a start is only trained."""
        placed = (str(root / ROWS / f"{job.name}.yaml"), "--runs", str(root), "--name", job.name)
        if self.run(job.name).row == PRETRAIN:
            return ("prune", *placed)
        return ("run", *placed, "--target", str(root / self._target))

    @property
    def _target(self) -> str:
        return f"{TARGETS}/{self.target.name}.yaml"

    def files(self, job: Job) -> dict[str, bytes]:
        """Return what these words read, by its path in the folder; of the run that it begins with, the net."""
        needs = self.run(job.name).needs[-1:]
        paths = [
            f"{ROWS}/{job.name}.yaml",
            self._target,
            *(file for name in needs for file in self.run(name).delivered),
        ]
        return {path: read_bounded(self.root / path, most=2**34) for path in paths}

    def missing(self, job: Job) -> str:
        """Say why a row has no report that its run bears out, or a start no net; nothing where it has."""
        run = self.run(job.name)
        if run.row != PRETRAIN:
            return report_in(self.root / run.name, self.root)[1]
        if not (self.root / run.name / net_place(run.net) / FILE_NAME).is_file():
            return "not begun"
        try:
            Run.open(self.root / run.name, self.root).sealed(net_place(run.net))
        except RobustdeployError as error:
            return error.args[0] if error.args else type(error).__name__
        return ""


def begun(root: Path, comparison: Comparison, base: Recipe, target: Target, runs: Sequence[RowRun]) -> TableFolder:
    """Make the folder of a table, or go on with it; one of another recipe or target is a UsageError.

    Rows may be added and changed: a row that is trained otherwise is another run.
    """
    folder = TableFolder(root, comparison, target, tuple(runs))
    # What decides the numbers: rows that were measured otherwise could not stand beside those that are there.
    fixed: dict[Path, Recipe | Target] = {root / SERIES: base, root / TARGETS / f"{target.name}.yaml": target}
    if changed := [path for path, noun in fixed.items() if path.exists() and not says_the_same(path, noun)]:
        raise UsageError(
            f"{root} is a table of another {changed[0].name}, or under other --set; give this one a --name"
        )
    nouns = {**fixed, **{root / ROWS / f"{run.name}.yaml": run.recipe for run in runs}}
    texts = {path: resolved_yaml(noun) for path, noun in nouns.items()}
    with storage_errors(root):
        for part in (ROWS, TARGETS):
            (root / part).mkdir(parents=True, exist_ok=True)
    # Without what it does not say: what of a training is a row's own is told by what it gives.
    plan = text_from_value(comparison.model_dump(mode="json", exclude_unset=True))
    for path, text in {**texts, root / PLAN: plan}.items():
        atomic_write_text(path, text)
    return folder
