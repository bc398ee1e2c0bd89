"""The loss of one batch as a module.

An adversarial objective runs the net several times for one loss. As one module it is one forward pass, which is what
DistributedDataParallel averages gradients after.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from robustdeploy.cost.module import evaluating
from robustdeploy.onboard.types import Threat
from robustdeploy.prune.information import watched
from robustdeploy.prune.protocol import Pruning, StepData
from robustdeploy.train import ranks
from robustdeploy.train.batches import Batch
from robustdeploy.train.narrow_norm import NarrowBatchNorm
from robustdeploy.train.passes import Passes
from robustdeploy.train.protocol import ADVERSARIAL, MASK_LOSS, Replaying, Task


class BatchLoss(nn.Module):
    """An objective's numbers on a batch, of which ``loss`` is what is minimised, with the pruner's penalty in it."""

    def __init__(
        self,
        module: nn.Module,
        threat: Threat,
        precision: torch.dtype,
        pruning: Pruning | None = None,
        passes: Passes | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self._threat = threat
        self._precision = precision
        self._passes = Passes() if passes is None else passes
        # In a tuple, or its parameters would count as this module's a second time.
        self._pruning = (pruning,)
        self._features = _layers(pruning)
        self.step: StepData | None = None
        """What the latest loss was taken on; for the pruner."""

    def forward(self, task: Task | Replaying, batch: Batch, perturbation: Tensor | None) -> dict[str, Tensor]:
        """Return the objective's scalars; ``perturbation`` is what a replaying one carries."""
        bf16 = self._precision == torch.bfloat16
        with (
            # bfloat16 has float32's range, so gradients need no loss scale; float16 would.
            torch.autocast(batch.images.device.type, dtype=torch.bfloat16, enabled=bf16),
            NarrowBatchNorm(),
            self._passes.counted(self.module),
            _kept_outputs(self.module, self._features) as features,
        ):
            if perturbation is not None:
                replaying = cast(Replaying, task)
                found = replaying.perturbed(self.module, batch.images, batch.labels, self._threat, perturbation)
            else:
                found = task(self.module, batch.images, batch.labels, self._threat, batch.noise)
        numbers = dict(found)
        adversarial = numbers.pop(ADVERSARIAL, None)
        (pruning,) = self._pruning
        if pruning is not None:
            self.step = StepData(batch.images, batch.labels, adversarial, features)
            # Added inside forward, so that DistributedDataParallel sees one graph with everything that has a gradient.
            if (penalty := pruning.penalty(self.step)) is not None:
                # To both losses, where there are two: of each only the gradient in what follows it is used.
                numbers |= {name: numbers[name] + penalty for name in ("loss", MASK_LOSS) if name in numbers}
                numbers["penalty"] = penalty.detach()
        return numbers


def _layers(pruning: Pruning | None) -> dict[str, nn.Module]:
    """Return the layers whose outputs the pruner asks for."""
    return {} if pruning is None else {name: pruning.net.get_submodule(name) for name in pruning.features()}


@contextmanager
def _kept_outputs(module: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[Mapping[str, Sequence[Tensor]]]:
    """Keep what ``layers`` put out inside the block, in the passes that the loss comes from and not in an attack's."""
    outputs: dict[str, list[Tensor]] = {name: [] for name in layers}

    def keeping(name: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            # TRADES looks at the clean scores in eval mode before it attacks; that pass is no part of the loss either.
            if watched() and module.training and torch.is_grad_enabled():
                outputs[name].append(output)

        return hook

    handles = [layer.register_forward_hook(keeping(name)) for name, layer in layers.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def distributed(loss: BatchLoss, images: Tensor) -> nn.Module:
    """Return ``loss`` with its gradients averaged over all processes, where there are several.

    On ``images``, N×C×H×W where the net is, it is tried out whether all parameters have a gradient to wait for.
    """
    # Once masks are frozen at the end of a phase that trains scores alone, nothing learns until the next one begins.
    if ranks.world() == 1 or not any(parameter.requires_grad for parameter in loss.parameters()):
        return loss
    devices = [images.device] if images.device.type == "cuda" else None
    # Looking for unused parameters costs a walk through the graph in every step, so it is only on where it must be.
    unused = _leaves_out(loss.module, images)
    return DistributedDataParallel(loss, device_ids=devices, find_unused_parameters=unused)


def _leaves_out(module: nn.Module, images: Tensor) -> bool:
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    # In eval mode, since a pass in training mode would move the running statistics.
    with evaluating(module), torch.enable_grad():
        gradients = torch.autograd.grad(module(images).float().sum(), learning, allow_unused=True)
    return any(gradient is None for gradient in gradients)
