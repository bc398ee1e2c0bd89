"""Plans: what a recipe asks of the training loop, for trainings that are not stages of a run."""

from __future__ import annotations

import torch

from robustdeploy.core.recipe import Recipe
from robustdeploy.core.registry import TASKS
from robustdeploy.data.load import Loaded
from robustdeploy.nets.build import build_net
from robustdeploy.nets.normalised import Normalised
from robustdeploy.train.plan import Plan


def plan_from(recipe: Recipe, data: Loaded, device: torch.device, training: str = "") -> Plan:
    """Return the plan that ``robustdeploy prune`` would follow; ``training`` marks its checkpoints."""
    return Plan(
        train=data.train.to(device),
        validation=data.validation.to(device),
        task=TASKS.build(recipe.train.task.name, recipe.train.task.options),
        threat=recipe.threat,
        options=recipe.train,
        seed=recipe.seed,
        shift=data.shift if recipe.data.augment else 0,
        mirror=data.mirror and recipe.data.augment,
        training=training,
    )


def fresh_net(recipe: Recipe, data: Loaded, device: torch.device) -> Normalised:
    """Return the recipe's net, dense, with weights that depend on its seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        net = build_net(recipe.net, len(data.classes), data.image_shape, data.mean, data.std)
    return net.to(device)
