"""Batch normalisation's final statistics."""

from __future__ import annotations

import torch
from torch import nn

from robustdeploy.onboard.draws import key
from robustdeploy.train.batches import Batches
from robustdeploy.train.training import Training

BATCHES = 100
"""Most batches over which the statistics are averaged."""


def settle(training: Training) -> None:
    """Average the statistics over the net as it is now, on batches as the training saw them; leave it in eval mode.

    During the training they follow weights that still move, and are averages over the last few batches only.
    """
    plan, module = training.plan, training.module
    layers = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain average instead of a decaying one
    module.train()
    torch.manual_seed(key(plan.seed, "dropout", plan.steps))
    batches = Batches(plan)
    for position in range(min(BATCHES, plan.steps_per_epoch)):
        training.measure(batches.of_epoch(plan.options.epochs, position))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    module.eval()
