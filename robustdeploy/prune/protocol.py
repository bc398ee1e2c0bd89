"""What a pruner is: it wraps a net for training under a budget and gives back a physically smaller one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from robustdeploy.prune.operations import OperationModel


class Pruning(Protocol):
    """A net under pruning. It is the module that is trained; its state dict holds the masks as well."""

    net: nn.Module
    """The dense net; its parameters are trained in place."""
    operations: OperationModel

    def __call__(self, images: Tensor) -> Tensor:
        """Score ``images`` with the masked net."""
        ...

    def own_parameters(self) -> list[dict[str, object]]:
        """Parameter groups for the optimiser besides the net's own."""
        ...

    def penalty(self, progress: float) -> Tensor:
        """Return what joins the loss at ``progress`` in [0, 1) of the training."""
        ...

    def after_step(self, progress: float) -> None:
        """Project, anneal or freeze after an optimiser step."""
        ...

    def status(self) -> Mapping[str, float]:
        """Numbers for the training log, e.g. the operations now kept."""
        ...

    def kept(self) -> dict[str, Tensor]:
        """Per channel group, the indices of the channels kept."""
        ...

    def compact(self) -> nn.Module:
        """Return a smaller net that computes what the masked one does. Raises TrainingError before the freeze."""
        ...


class Pruner(Protocol):
    """A way to prune while training. Its dataclass fields are its options."""

    def begin(self, net: nn.Module, image_shape: tuple[int, int, int], ops: float, multiple: int) -> Pruning:
        """Attach to ``net`` for a budget of ``ops`` (fraction of its MACs), channels in multiples of ``multiple``.

        Raises BudgetError, before any training, when the budget is out of reach.
        """
        ...


class GroupNormalised(torch.autograd.Function):
    """Identity whose gradient is scaled to a root mean square of 1, so that no group's masks outrun another's."""

    @staticmethod
    def forward(ctx: object, mask: Tensor) -> Tensor:
        """Return ``mask``."""
        return mask.view_as(mask)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        """Return the scaled gradient."""
        size: Tensor = gradient.square().mean().sqrt()
        return gradient / (size + 1e-12)
