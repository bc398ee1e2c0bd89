"""Setup: what a recipe asks of the training loop, beside the net: a device, a plan, a pruner."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from robustdeploy.core.phases import is_pruned, phases_of
from robustdeploy.core.recipe import Budget, Phase, Recipe, Train
from robustdeploy.core.registry import PRUNERS, SCHEDULES, TASKS
from robustdeploy.core.subject import DENSE, PRUNED
from robustdeploy.data.load import Loaded
from robustdeploy.errors import UsageError
from robustdeploy.prune.latency import LatencyGoal
from robustdeploy.prune.protocol import Pruner, Pruning, TimedPruner, lacking
from robustdeploy.train import ranks
from robustdeploy.train.plan import Plan, PlannedPhase
from robustdeploy.train.protocol import Replaying, Task


def device_from(name: str) -> torch.device:
    """Return the torch device that ``train.device`` names; ``auto`` takes CUDA when it is there.

    Of several processes on one machine each takes a GPU of its own.
    """
    name = ranks.local_device(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        # Only using a device shows that it is there; torch makes names of absent ones without complaint.
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as problem:
        first = str(problem).splitlines()[0]
        raise UsageError(
            f"train.device is '{name}', which torch cannot use here ({first}); say auto or cpu"
        ) from problem
    return device


def plan_from(recipe: Recipe, data: Loaded, device: torch.device, training: str = "", *, pruned: bool = True) -> Plan:
    """Return the plan that the recipe's trainings follow; ``training`` marks their checkpoints.

    Without ``pruned`` it is that of the dense net, which has no scores. Raises UsageError where a phase would be too
    short for its objective to see every image, or where none trains what the pruner needs trained.
    """
    return Plan(
        train=data.train.to(device),
        validation=data.validation.to(device),
        phases=phases_from(recipe, pruned=pruned and is_pruned(recipe)),
        threat=recipe.threat,
        options=recipe.train,
        seed=recipe.seed,
        shift=data.shift if recipe.data.augment else 0,
        mirror=data.mirror and recipe.data.augment,
        training=training,
    )


def phases_from(recipe: Recipe, *, pruned: bool) -> tuple[PlannedPhase, ...]:
    """Return the recipe's phases, or the one that a recipe without any means.

    A net that is not ``pruned`` takes part in those that train weights; where there are none, in one of no epochs.
    """
    # No epochs: a dense net that its start has trained already is delivered as it is.
    none = [phase.model_copy(update={"train": "weights", "epochs": 0}) for phase in recipe.train.phases[:1]]
    chosen = phases_of(recipe, pruned=pruned) or none
    planned: list[PlannedPhase] = []
    for phase in chosen:
        select = phase.select or (recipe.train.select if phase is chosen[-1] else "last")
        planned.append(_planned(phase, recipe.train, select, sum(before.epochs for before in planned)))
    if pruned and any(getattr(phase.objective, "two_losses", False) for phase in planned):
        ranks.check_alone()
    return tuple(planned)


def _planned(phase: Phase, train: Train, select: Literal["best", "last"], first_epoch: int) -> PlannedPhase:
    chosen, schedule = phase.objective or train.task, phase.schedule or train.schedule
    objective: Task | Replaying = TASKS.build(chosen.name, chosen.options)
    epochs = train.epochs if phase.epochs is None else phase.epochs
    return PlannedPhase(
        name=phase.name,
        train=phase.train,
        epochs=epochs,
        objective=objective,
        lr=phase.lr or train.lr,
        schedule=SCHEDULES.build(schedule.name, schedule.options),
        select=select,
        first_epoch=first_epoch,
    )


def own_net_of(recipe: Recipe) -> str:
    """Return what subjects call the net that a recipe's training delivers."""
    return PRUNED if is_pruned(recipe) else DENSE


def pruning_from(recipe: Recipe, data: Loaded, net: nn.Module, timing: LatencyGoal | None = None) -> Pruning | None:
    """Attach the recipe's pruner to ``net``, if that is pruned. Raises BudgetError when the budget is out of reach.

    ``timing`` is needed where the budget limits latency.
    """
    if not is_pruned(recipe):
        return None
    name = recipe.prune.name
    pruner: Pruner = PRUNERS.build(name, recipe.prune.options)
    # Plug-ins are anybody's code. What they lack is told in one sentence, not by an AttributeError in the loop.
    if not hasattr(pruner, "wrap"):
        raise UsageError(f"the pruner '{name}' has no wrap(net, image_shape, budget), which a pruner needs")
    if recipe.train.ema is not None and not getattr(pruner, "averages", True):
        raise UsageError(
            f"the pruner '{name}' trains weights as products, or towards codes, and an average of either is none: "
            "leave train.ema unset"
        )
    if getattr(pruner, "comes_last", False) and recipe.train.phases and recipe.train.phases[-1].train == "weights":
        raise UsageError(
            f"phase '{recipe.train.phases[-1].name}' would train the weights after the pruner '{name}' has put them on "
            "their codes: have it train both, or leave bits unset"
        )
    if recipe.budget.latency is None:
        pruning = pruner.wrap(net, data.image_shape, recipe.budget)
    else:
        pruning = _timed(name, pruner, net, data, recipe.budget, timing)
    if names := lacking(pruning):
        raise UsageError(f"the pruner '{name}' gives a {type(pruning).__name__} that lacks {', '.join(names)}")
    alone = [phase.name for phase in recipe.train.phases if phase.train == "scores"]
    if alone and not pruning.own_parameters():
        raise UsageError(
            f"phase '{alone[0]}' trains scores alone, and the pruner '{name}' has none to train: give it train: both"
        )
    return pruning


def _timed(
    name: str, pruner: Pruner, net: nn.Module, data: Loaded, budget: Budget, timing: LatencyGoal | None
) -> Pruning:
    if not isinstance(pruner, TimedPruner):
        raise UsageError(
            f"the pruner '{name}' cannot keep budget.latency, as it does not choose channels by their time; "
            "`prune: masks` does"
        )
    if timing is None or ranks.world() > 1:
        raise UsageError("a limit on latency is kept by one process that reaches the target; train without torchrun")
    return pruner.wrap_timed(net, data.image_shape, budget, timing)
