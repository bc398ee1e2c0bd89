"""Phases: what is wrong with those of a training, as far as a recipe and the files of its plug-ins tell."""

from __future__ import annotations

from robustdeploy.core.recipe import Phase, Recipe, Train
from robustdeploy.core.registry import PRUNERS, TASKS
from robustdeploy.errors import UsageError


def is_pruned(recipe: Recipe) -> bool:
    """Whether the recipe's net is pruned: it has a budget, or a pruner that has a goal of its own."""
    needs_budget = PRUNERS.trait(recipe.prune.name, "needs_budget", True)
    return recipe.budget.is_set or not needs_budget


def phases_of(recipe: Recipe, *, pruned: bool) -> tuple[Phase, ...]:
    """Return the recipe's phases, or the one that a recipe without any means.

    A net that is not ``pruned`` takes part in those that train weights; where there are none, in none. Raises
    UsageError where no phase trains what the pruner needs trained, or one is too short for its objective to see every
    image.
    """
    written = recipe.train.phases or (Phase(name="train"),)
    if pruned and all(phase.train == "weights" for phase in written):
        raise UsageError(
            f"no phase of train.phases trains scores, so '{recipe.prune.name}' would never prune: give one of them "
            "train: scores, or train: both"
        )
    chosen = tuple(phase for phase in written if pruned or phase.train != "scores")
    for phase in chosen:
        _check_replays(phase, recipe.train)
    return chosen


def _check_replays(phase: Phase, train: Train) -> None:
    objective = phase.objective or train.task
    replays = objective.options.get("replays", TASKS.trait(objective.name, "replays"))
    epochs = train.epochs if phase.epochs is None else phase.epochs
    if isinstance(replays, int) and epochs < replays:
        where = "train.epochs" if phase.epochs is None else f"epochs of phase '{phase.name}'"
        raise UsageError(
            f"task '{objective.name}' makes {replays} steps on each batch, and {where} counts all of them: "
            f"{epochs} would leave images unseen; give {replays} or more, or fewer replays"
        )
