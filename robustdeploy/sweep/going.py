"""Going over the cells: what is done is skipped, what failed is told at the end, and the results are written anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from robustdeploy.core.asked import DEFAULT_RUNS, DEFAULT_TARGET, check_targets, recipe_for
from robustdeploy.core.cluster import HERE
from robustdeploy.core.interrupts import catch_signals
from robustdeploy.core.load import gate_problems, load_target, prospect_of
from robustdeploy.core.precisions import precisions_on
from robustdeploy.core.recipe import Choice
from robustdeploy.devices.profiles import profiles_beside
from robustdeploy.errors import UsageError
from robustdeploy.preflight import check_training
from robustdeploy.series import going
from robustdeploy.series.place import Ended, Place
from robustdeploy.series.places import place_from
from robustdeploy.series.series import Say, series_folder
from robustdeploy.sweep.cells import axis_from, cells_over
from robustdeploy.sweep.folder import SweepFolder, begun
from robustdeploy.sweep.results import write_results
from robustdeploy.sweep.table import Table, table_of


@dataclass(frozen=True)
class Swept:
    """What came of a sweep."""

    page: Path
    table: Table
    failed: Mapping[str, Ended]
    """How the runs ended that have no verdict, by their cells' names."""

    @property
    def exit_code(self) -> int:
        """0 where every run has a report, else that of the first run that failed."""
        if not self.table.missing:
            return 0
        return next((ended.code for ended in self.failed.values() if ended.code > 0), 4)


def sweep(
    recipe: str | Path,
    over: Sequence[str],
    targets: Sequence[str] = (DEFAULT_TARGET,),
    *,
    precisions: Sequence[str] = (),
    overrides: Sequence[str] = (),
    on: str = HERE,
    runs: Path = DEFAULT_RUNS,
    name: str | None = None,
    say: Say = print,
    quiet: bool = False,
) -> Swept:
    """Run ``recipe`` under every combination of the values that ``over`` names, such as ``budget.ops=0.7,0.5``.

    A repeated call goes on with what is missing, and further values under the same ``name`` are added. Every setting is
    checked before the first run begins. ``on`` is where the runs are made, as for ``--on``; ``quiet`` runs say nothing.
    """
    cells = cells_over([axis_from(each) for each in over])
    place = place_from(on, quiet=quiet)
    goals = [load_target(each) for each in targets]
    check_targets(goals)
    for goal in goals:
        precisions_on(goal, [Choice(name=each) for each in precisions])
    base = recipe_for(recipe, overrides=overrides, quick=True)
    root = series_folder(runs, name or f"sweep-{base.name}")
    # All of them before the first: a mistake in the last would be found after the others' hours of training. And what
    # needs no torch before what does.
    for cell in cells:
        check = partial(check_training, runs=root, name=cell.name, profiles=profiles_beside(runs))
        recipe_for(recipe, targets=goals, overrides=[*overrides, *cell.overrides], before=check, quick=True)
    base = recipe_for(recipe, overrides=overrides)
    for cell in cells:
        asked = recipe_for(recipe, targets=goals, overrides=[*overrides, *cell.overrides])
        if problems := [text for _, text in gate_problems(prospect_of(asked))]:
            raise UsageError(*(f"{' '.join(cell.overrides)}: {text}" for text in problems))
    with catch_signals():
        return go(begun(root, base, goals, precisions, cells), place, say)


def go(folder: SweepFolder, place: Place, say: Say) -> Swept:
    """Make the runs that have no report yet, in ``place``; one that fails does not stop the others.

    The results are written after each, so that a long sweep can be looked at while it goes on.
    """
    failed = going.go(folder, folder.jobs, place, say, lambda failed: write_results(folder, table_of(folder)), "sweep")
    table = table_of(folder)
    return Swept(write_results(folder, table), table, failed)
