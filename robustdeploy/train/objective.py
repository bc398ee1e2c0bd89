"""Objective: the loss of one batch as a module.

An adversarial task runs the net several times for one loss. As one module it is one forward pass, which is what
DistributedDataParallel averages gradients after.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from robustdeploy.cost.module import evaluating
from robustdeploy.onboard.types import Threat
from robustdeploy.train import ranks
from robustdeploy.train.batches import Batch
from robustdeploy.train.narrow_norm import NarrowBatchNorm
from robustdeploy.train.protocol import Replaying, Task


class Objective(nn.Module):
    """A task's numbers on a batch, of which ``loss`` is what is minimised."""

    def __init__(self, module: nn.Module, threat: Threat, precision: torch.dtype) -> None:
        super().__init__()
        self.module = module
        self._threat = threat
        self._precision = precision

    def forward(self, task: Task | Replaying, batch: Batch, perturbation: Tensor | None) -> dict[str, Tensor]:
        """Return the task's scalars; ``perturbation`` is what a replaying task carries."""
        bf16 = self._precision == torch.bfloat16
        with torch.autocast(batch.images.device.type, dtype=torch.bfloat16, enabled=bf16), NarrowBatchNorm():
            if perturbation is not None:
                replaying = cast(Replaying, task)
                parts = replaying.perturbed(self.module, batch.images, batch.labels, self._threat, perturbation)
            else:
                parts = task(self.module, batch.images, batch.labels, self._threat, batch.noise)
        return dict(parts)


def distributed(objective: Objective, images: Tensor) -> nn.Module:
    """Return ``objective`` with its gradients averaged over all processes, where there are several.

    On ``images``, N×C×H×W where the net is, it is tried out whether all parameters have a gradient to wait for.
    """
    if ranks.world() == 1:
        return objective
    devices = [images.device] if images.device.type == "cuda" else None
    unused = _leaves_out(objective.module, images)
    return DistributedDataParallel(objective, device_ids=devices, find_unused_parameters=unused)


def _leaves_out(module: nn.Module, images: Tensor) -> bool:
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with evaluating(module), torch.enable_grad():
        gradients = torch.autograd.grad(module(images).float().sum(), learning, allow_unused=True)
    return any(gradient is None for gradient in gradients)
