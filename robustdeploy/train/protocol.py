"""What a training objective is, which turns one batch into a loss, and what a schedule of the learning rate is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat

ADVERSARIAL = "adversarial"
"""Under this name an objective gives its attacked images beside its scalars."""

MASK_LOSS = "mask_loss"
"""Under this name an objective gives a loss of the masks' own; weights alone then learn from ``loss``."""


class Task(Protocol):
    """One way to train. The loop neither knows nor cares which.

    A class attribute ``single_step`` that is true has the loop's sentinel watch for catastrophic overfitting. One
    called ``two_losses`` must be true where a ``mask_loss`` is given.
    """

    def __call__(
        self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise
    ) -> Mapping[str, Tensor]:
        """Return ``loss`` (a scalar to minimise) and any further scalars for the log, such as ``accuracy``.

        One that attacks the images adds what it trains on as ``adversarial``, detached, for pruners to look at.
        ``images`` are float N×C×H×W in [0, 1], already augmented; ``noise`` depends on seed, epoch and sample alone.
        """
        ...


@runtime_checkable
class Replaying(Task, Protocol):
    """A task that steps several times on each batch and carries one perturbation from step to step, batch to batch.

    The loop keeps the perturbation, in its checkpoints too, so that the task itself has no state. As a plain Task it
    gives the numbers of a batch by itself, for where nothing is carried.
    """

    replays: int
    """Optimiser steps made on each batch before the next one."""

    def start(self, images: Tensor) -> Tensor:
        """Return the perturbation that the first step of a training begins with, shaped like ``images``."""
        ...

    def perturbed(
        self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, perturbation: Tensor
    ) -> Mapping[str, Tensor]:
        """Return the same numbers as a Task; ``perturbation`` is a leaf that the loss's gradient must reach."""
        ...

    def climb(self, perturbation: Tensor, gradient: Tensor, threat: Threat) -> Tensor:
        """Return the next step's perturbation, from this one's and the loss's gradient in it."""
        ...


class Schedule(Protocol):
    """How the learning rate moves through a phase."""

    def __call__(self, position: float) -> float:
        """Return the rate at ``position``, in (0, 1), of the phase as a share of its peak."""
        ...
