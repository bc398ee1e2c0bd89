"""Setup: what a recipe asks of the training loop, beside the net: a device, a plan, a pruner."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from robustdeploy.core.recipe import Recipe
from robustdeploy.core.registry import PRUNERS, TASKS
from robustdeploy.data.load import Loaded
from robustdeploy.errors import UsageError
from robustdeploy.prune.protocol import Pruning
from robustdeploy.train import ranks
from robustdeploy.train.plan import Plan
from robustdeploy.train.protocol import Replaying


def device_from(name: str) -> torch.device:
    """Return the torch device that ``train.device`` names; ``auto`` takes CUDA when it is there.

    Of several processes on one machine each takes a GPU of its own.
    """
    name = ranks.local_device(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as problem:
        first = str(problem).splitlines()[0]
        raise UsageError(
            f"train.device is '{name}', which torch cannot use here ({first}); say auto or cpu"
        ) from problem
    return device


def plan_from(recipe: Recipe, data: Loaded, device: torch.device, training: str = "") -> Plan:
    """Return the plan that the recipe's trainings follow; ``training`` marks their checkpoints.

    Raises UsageError where they would be too short for their task to see every image.
    """
    task = TASKS.build(recipe.train.task.name, recipe.train.task.options)
    if isinstance(task, Replaying) and recipe.train.epochs < task.replays:
        raise UsageError(
            f"task '{recipe.train.task.name}' makes {task.replays} steps on each batch, and train.epochs counts all of "
            f"them: {recipe.train.epochs} would leave images unseen; give {task.replays} or more, or fewer replays"
        )
    return Plan(
        train=data.train.to(device),
        validation=data.validation.to(device),
        task=task,
        threat=recipe.threat,
        options=recipe.train,
        seed=recipe.seed,
        shift=data.shift if recipe.data.augment else 0,
        mirror=data.mirror and recipe.data.augment,
        training=training,
    )


def is_pruned(recipe: Recipe) -> bool:
    """Whether the recipe's net is pruned: it has a budget, or a pruner that has a goal of its own."""
    needs_budget = getattr(PRUNERS.get(recipe.prune.name), "needs_budget", True)
    return bool(recipe.budget.amounts) or not needs_budget


def pruning_from(recipe: Recipe, data: Loaded, net: nn.Module) -> Pruning | None:
    """Attach the recipe's pruner to ``net``, if that is pruned. Raises BudgetError when the budget is out of reach."""
    if not is_pruned(recipe):
        return None
    pruner: Any = PRUNERS.build(recipe.prune.name, recipe.prune.options)
    pruning: Pruning = pruner.begin(net, data.image_shape, recipe.budget)
    return pruning
