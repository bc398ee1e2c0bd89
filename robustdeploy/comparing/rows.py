"""Rows: the runs that a comparison asks for, each with its recipe, and what it begins with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustdeploy.core.asked import suited
from robustdeploy.core.comparison import PRETRAIN, ComparedRow, Comparison, with_training
from robustdeploy.core.given import NET_FILES
from robustdeploy.core.load import load_recipe
from robustdeploy.core.phases import is_pruned
from robustdeploy.core.recipe import Budget, Choice, Recipe
from robustdeploy.core.subject import DENSE, PRUNED
from robustdeploy.core.target import Target
from robustdeploy.engine.places import net_place
from robustdeploy.engine.run import training_fingerprint
from robustdeploy.errors import UsageError
from robustdeploy.series.series import Job, anywhere

_OWN = {
    "prune": "each row of the plan says how it prunes",
    "budget": "the plan's `budget` is what every row may cost",
    "seed": "the plan's `seeds` are those of all rows",
    "train.start": "rows say `after` in the plan what they begin with",
    "gate": "rows are compared and not judged",
    "gate_baseline": "rows are compared and not judged",
    "baseline": "the dense net is a row of its own, with `prune: null`",
    "precisions": "rows are measured in their target's first precision",
}
"""Fields of a recipe that a comparison sets itself, and where."""
_UNPRUNED = {"prune": Choice(name="masks"), "budget": Budget()}
"""What makes a training that of the dense net: masks without a budget remove nothing."""


@dataclass(frozen=True)
class RowRun:
    """One run: a row under one seed, or the dense training that rows begin with."""

    row: str
    """Name of the row, or ``pretrain``."""
    seed: int
    recipe: Recipe
    needs: tuple[str, ...] = ()
    """Names of the runs whose trainings came before this one's, the first of all first."""

    @property
    def name(self) -> str:
        """Name of its folder; what is trained otherwise is another run."""
        seed = f"-seed{self.seed}" if self.seed else ""
        return f"{self.row}{seed}-{training_fingerprint(self.recipe)[:8]}"

    @property
    def net(self) -> str:
        """What subjects call its net."""
        return PRUNED if is_pruned(self.recipe) else DENSE

    @property
    def job(self) -> Job:
        """The run as a series makes it."""
        return Job(self.name, self.needs)

    @property
    def delivered(self) -> tuple[str, ...]:
        """The two files that another training begins with, by their paths in the series' folder."""
        return tuple(f"{self.name}/{net_place(self.net)}/{file}" for file in NET_FILES)


def base_recipe(comparison: Comparison, overrides: Sequence[str], *, quick: bool = False) -> Recipe:
    """Return what all rows have in common: the recipe without a net beside it, and without rules.

    A ``quick`` one is checked as far as that goes without torch. What is a row's own cannot be set for all of them.
    """
    for override in (*comparison.set, *overrides):
        field = override.partition("=")[0].strip()
        for own, home in _OWN.items():
            if field == own or field.startswith((f"{own}.", f"{own}[")):
                raise UsageError(f"--set {field}: it has no effect on a table; {home}")
    base = load_recipe(comparison.recipe, [*comparison.set, *overrides], quick=quick)
    # The dense net is a row of its own, and a rule of the recipe may be one that no dense row can meet.
    return anywhere(base.model_copy(update={"baseline": False, "gate": (), "gate_baseline": None, "precisions": ()}))


def runs_of(comparison: Comparison, base: Recipe, target: Target) -> tuple[RowRun, ...]:
    """Return all runs to be measured on ``target``, those that others begin with before these."""
    return tuple(run for seed in comparison.seeds for run in _runs_of_seed(comparison, base, seed, target))


def _runs_of_seed(comparison: Comparison, base: Recipe, seed: int, target: Target) -> Iterator[RowRun]:
    seeded = base.model_copy(update={"seed": seed})
    made: dict[str, RowRun] = {}
    if comparison.pretrain is not None and any(row.after == PRETRAIN for row in comparison.rows):
        own = {name: getattr(comparison.pretrain, name) for name in comparison.pretrain.model_fields_set}
        dense = with_training(seeded, own).model_copy(update={"name": PRETRAIN, **_UNPRUNED})
        made[PRETRAIN] = RowRun(PRETRAIN, seed, suited(dense, [target]))
        yield made[PRETRAIN]
    for row in comparison.rows:
        before = None if row.after is None else made[row.after]
        start = None if before is None else Path(before.name) / net_place(before.net)
        needs = () if before is None else (*before.needs, before.name)
        made[row.name] = RowRun(row.name, seed, _recipe_of(comparison, row, seeded, start, target), needs)
        yield made[row.name]


def _recipe_of(comparison: Comparison, row: ComparedRow, base: Recipe, start: Path | None, target: Target) -> Recipe:
    changed = _UNPRUNED if row.prune is None else {"prune": row.prune, "budget": comparison.budget_of(row)}
    # From the series' folder: the same words for a run that is made on another machine.
    own = {**row.own_training, "start": start}
    return suited(with_training(base, own).model_copy(update={"name": row.name, **changed}), [target])
