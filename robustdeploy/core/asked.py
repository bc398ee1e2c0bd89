"""A recipe and targets as they are asked for: by name or file, with a budget and overrides put in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from robustdeploy.core.load import load_recipe, load_target
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.target import Target
from robustdeploy.errors import UsageError

DEFAULT_RECIPE = "digits-resnet8"
DEFAULT_TARGET = "host-cpu"
DEFAULT_RUNS = Path("runs")


def recipe_for(
    name: str | Path,
    ops: float | None = None,
    targets: Sequence[Target] = (),
    overrides: Sequence[str] = (),
    before: Callable[[Recipe], object] | None = None,
    *,
    quick: bool = False,
) -> Recipe:
    """Load a recipe, with the operation budget and a channel multiple that suits all targets put in.

    Without a target it is meant for the default one. ``before`` gets it as soon as it is checked as far as that goes
    without torch; a ``quick`` one is checked no further.
    """
    more = [] if ops is None else [f"budget.ops={ops!r}"]
    check = None if before is None else lambda recipe: before(suited(recipe, targets))
    return suited(load_recipe(name, (*overrides, *more), before=check, quick=quick), targets)


def suited(recipe: Recipe, targets: Sequence[Target] = ()) -> Recipe:
    """Return the recipe with the multiple of channels that the targets run best, where it names none itself."""
    budget = recipe.budget
    if budget.names_multiple:
        return recipe
    # The profile that a limit on latency follows has learnt what its target runs best.
    learnt = load_target(budget.latency.target).name if budget.latency else None
    goals = targets or [load_target(DEFAULT_TARGET)]
    # One net is trained for all targets, so its channels have to suit each of them.
    multiple = math.lcm(*(goal.channel_multiple for goal in goals if goal.name != learnt))
    return recipe.model_copy(update={"budget": budget.model_copy(update={"preferred_multiple": multiple})})


def check_targets(targets: Sequence[Target]) -> None:
    """Refuse no target at all, and two of one name: their results would stand in one place."""
    names = [target.name for target in targets]
    if not names:
        raise UsageError("no target was given; say where the net goes, e.g. host-cpu")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"the target {twice[0]} was given twice")
