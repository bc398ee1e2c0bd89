"""Going: make the rows that are not done yet, and write the table anew after each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from robustdeploy.comparing.folder import TableFolder, begun
from robustdeploy.comparing.results import write_results
from robustdeploy.comparing.rows import RowRun, base_recipe, runs_of
from robustdeploy.comparing.table import Table, table_of
from robustdeploy.core.asked import DEFAULT_RUNS
from robustdeploy.core.cluster import HERE
from robustdeploy.core.comparison import Comparison
from robustdeploy.core.complaint import complaint, did_you_mean
from robustdeploy.core.interrupts import catch_signals
from robustdeploy.core.load import load_comparison, load_published, load_target, prospect_of
from robustdeploy.core.plain import plain
from robustdeploy.core.recipe import Recipe
from robustdeploy.devices.profiles import profiles_beside
from robustdeploy.errors import RobustdeployError, UsageError
from robustdeploy.preflight import check_data, check_latency, check_phases, check_recipe, check_run_folder
from robustdeploy.series.going import go
from robustdeploy.series.place import Ended
from robustdeploy.series.places import place_from
from robustdeploy.series.series import Say, series_folder


@dataclass(frozen=True)
class Compared:
    """What came of a comparison."""

    folder: TableFolder
    page: Path
    table: Table
    failed: Mapping[str, Ended]
    """How the runs ended that were begun and have no report, by name."""
    asked: tuple[str, ...]
    """Names of the runs that were asked for."""

    @property
    def exit_code(self) -> int:
        """0 where every run that was asked for has a report, else that of the first that failed."""
        if not any(name in self.table.missing for name in self.asked):
            return 0
        return next((ended.code for ended in self.failed.values() if ended.code > 0), 4)


def compare_systems(
    plan: str | Path,
    *,
    only: Sequence[str] = (),
    overrides: Sequence[str] = (),
    target: str | None = None,
    at_once: int = 1,
    on: str = HERE,
    runs: Path = DEFAULT_RUNS,
    name: str | None = None,
    say: Say = print,
    quiet: bool = False,
) -> Compared:
    """Make the rows of a comparison, by name or YAML file, and the table of all that are there.

    A repeated call goes on with what is missing. ``only`` are the rows to make, with what they begin with. ``at_once``
    of them run side by side here; ``on`` is where the runs are made, as for ``--on``.
    """
    place = place_from(on, quiet=quiet, at_once=at_once)
    comparison = load_comparison(plan, quick=True)
    root = series_folder(runs, name or f"table-{comparison.name}")
    _check_rows(only, [row.name for row in comparison.rows])
    # Twice: what needs no torch is told at once, and not after the seconds that torch takes to load.
    base, found = checked(comparison, overrides, target, quick=True)
    for run in found:
        check_run_folder(root / run.name, run.recipe)
    check_data(base.data)
    for run in found:
        check_latency(run.recipe.model_copy(update={"name": base.name}), profiles_beside(runs))
    comparison = load_comparison(plan)
    base, found = checked(comparison, overrides, target)
    with catch_signals():
        folder = begun(root, comparison, base, load_target(target or comparison.target), found)
        jobs = folder.jobs_for(only)

        def written(failed: Mapping[str, Ended]) -> tuple[Path, Table]:
            table = table_of(folder, {name: ended.why for name, ended in failed.items()})
            return write_results(folder, table, at_once), table

        failed = go(folder, jobs, place, say, written, "table")
        return Compared(folder, *written(failed), failed, tuple(job.name for job in jobs))


def _check_rows(asked: Sequence[str], names: Sequence[str]) -> None:
    if unknown := [each for each in asked if each not in names]:
        near = did_you_mean(unknown[0], names)
        raise UsageError(f"--only {unknown[0]}: there is no such row{near} (rows: {', '.join(names)})")


def checked(
    comparison: Comparison, overrides: Sequence[str] = (), target: str | None = None, *, quick: bool = False
) -> tuple[Recipe, tuple[RowRun, ...]]:
    """Return the recipe of all rows and their runs; what is wrong with any of them is told at once.

    With ``quick`` nothing is looked at that needs torch.
    """
    goal, base = load_target(target or comparison.target), base_recipe(comparison, overrides, quick=quick)
    problems = list(_unknown_figures(comparison))
    found = runs_of(comparison, base, goal)
    for run in found:
        try:
            # What a row lays over the recipe may contradict what it leaves alone.
            Recipe.model_validate(plain(run.recipe))
            check_recipe(run.recipe)
            check_phases(run.recipe)
        except ValidationError as error:
            problems += [f"row '{run.row}': {_told(each)}" for each in error.errors()]
        except RobustdeployError as error:
            problems += [f"row '{run.row}': {line}" for line in error.args]
    if not (quick or problems):
        problems += _compact_starts(found)
    if problems:
        raise UsageError(*dict.fromkeys(problems))
    return base, found


def _compact_starts(found: Sequence[RowRun]) -> Iterator[str]:
    """Say which rows would begin with a net that is smaller by then; a training begins with a dense one."""
    smaller = {run.name: run.row for run in found if _is_smaller(run)}
    for run in found:
        if run.needs and (before := smaller.get(run.needs[-1])):
            yield (
                f"row '{run.row}' is after '{before}', whose channels are removed by then, and a training begins with "
                "a dense net: say `after: pretrain`, or begin with a row that masks weights"
            )


def _is_smaller(run: RowRun) -> bool:
    prospect = prospect_of(run.recipe)
    return prospect.pruned and prospect.removes_channels


def _told(error: ErrorDetails) -> str:
    return f"{'.'.join(map(str, error['loc']))} {complaint(error, Recipe)}".strip()


def _unknown_figures(comparison: Comparison) -> Iterator[str]:
    named = {name: row.name for row in comparison.rows for name in row.published}
    known = load_published().rows if named else {}
    for name, row in named.items():
        if name not in known:
            yield f"row '{row}': there is no published row '{name}'{did_you_mean(name, known)}"
