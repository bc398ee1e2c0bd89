"""Batch normalisation's final statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from robustdeploy.core.interrupts import stop_if_interrupted
from robustdeploy.onboard.draws import key
from robustdeploy.train import ranks
from robustdeploy.train.batches import Batches
from robustdeploy.train.training import Training

BATCHES = 100
"""Most batches over which the statistics are averaged."""


class _Average:
    """The plain average of a layer's batch statistics; until it ends, the layer keeps those that it had.

    An attack that sees the net in eval mode, as that of TRADES does, thus meets the net that was trained.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._count = 0
        self._momentum, layer.momentum = layer.momentum, 1.0  # what a pass leaves behind is its own statistics
        self._before = [value.clone() for value in self._running()]
        self._sums = [torch.zeros_like(value) for value in self._before]
        self._handle = layer.register_forward_hook(self._note)

    def _running(self) -> list[torch.Tensor]:
        return [self._layer.running_mean, self._layer.running_var]

    def _note(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        # TRADES attacks in eval mode; those passes leave the statistics alone and must not be counted.
        if not layer.training:
            return
        self._count += 1
        for running, before, total in zip(self._running(), self._before, self._sums, strict=True):
            total += running
            running.data.copy_(before)  # unseen by autograd: the pass back through a batch does not read them

    def end(self) -> None:
        """Give the layer the averages in place of what it had, if it was reached at all."""
        self._handle.remove()
        self._layer.momentum = self._momentum
        for running, total in zip(self._running(), self._sums, strict=True):
            if self._count:
                running.copy_(total / self._count)
        self._layer.num_batches_tracked.fill_(self._count)


def batch_norms(module: nn.Module) -> list[Any]:
    """Return the layers of ``module`` that keep statistics of batches."""
    # The class that all of torch's batch norms share, and those of users that derive from them.
    layers = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    return [layer for layer in layers if layer.running_mean is not None]


@contextmanager
def averaged(layers: list[Any]) -> Iterator[None]:
    """Give each of ``layers``, at the end of the block, the average over the batches that it saw in training mode."""
    averages = [_Average(layer) for layer in layers]
    try:
        yield
    finally:
        for average in averages:
            average.end()


def recalibrate(training: Training) -> None:
    """Average the statistics over the net as it is now, on batches as the training saw them; leave it in eval mode.

    During the training they follow weights that still move, and are averages over the last few batches only. A signal
    is heeded between two batches (Interrupted), unless other processes wait for this one.
    """
    plan, module = training.plan, training.module
    module.train()
    # A step number that the training has never used, so that settling is the same after a resume.
    torch.manual_seed(key(plan.seed, "dropout", plan.steps))
    # Rank 0 of 1: every process goes through whole batches, as statistics of parts would differ between them.
    batches = Batches(plan)
    with averaged(batch_norms(module)):
        for position in range(min(BATCHES, plan.steps_per_epoch)):
            if ranks.world() == 1:
                stop_if_interrupted()
            training.measure(batches.of_epoch(plan.epochs, position))
    module.eval()
