"""A recipe and targets as they are asked for: by name or file, with a budget and overrides put in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from robustdeploy.core.load import load_recipe
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
) -> Recipe:
    """Load a recipe, with the operation budget and a channel multiple that suits all targets put in.

    ``before`` gets it as soon as it is checked as far as that goes without torch.
    """
    more = [] if ops is None else [f"budget.ops={ops!r}"]
    check = None if before is None else lambda recipe: before(_for_targets(recipe, targets))
    return _for_targets(load_recipe(name, (*overrides, *more), before=check), targets)


def _for_targets(recipe: Recipe, targets: Sequence[Target]) -> Recipe:
    # One net is trained for all targets, so its channels have to suit each of them.
    multiple = math.lcm(recipe.budget.channel_multiple, *(target.channel_multiple for target in targets))
    if multiple == recipe.budget.channel_multiple:
        return recipe
    return recipe.model_copy(update={"budget": recipe.budget.model_copy(update={"channel_multiple": multiple})})


def check_targets(targets: Sequence[Target]) -> None:
    """Refuse no target at all, and two of one name: their results would stand in one place."""
    names = [target.name for target in targets]
    if not names:
        raise UsageError("no target was given; say where the net goes, e.g. host-cpu")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"the target {twice[0]} was given twice")
