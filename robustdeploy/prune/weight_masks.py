"""Weight masks: what single weights compete by where their masks are trained beside them.

A weight's mask is round(½·tanh(M) + shift), with one M per weight (Vemparala et al., "Adversarial robust model
compression using in-train pruning", CVPR Workshop SAIAD 2021); its gradient passes the rounding unchanged, so that a
masked weight can come back until the masks are frozen. The slides leave the shift open. Here it is the weight's
magnitude, less a threshold: HYDRA (Sehwag et al., NeurIPS 2020) lets its scores start from the magnitudes of a trained
net, but this training begins with random weights, whose magnitudes say nothing, so the magnitude goes with the weight
instead of being a start that stays. With all M at 0 this is magnitude pruning while training (Zhu and Gupta 2017).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from robustdeploy.prune.weight_budget import LayerWeight

SCALE = 0.5


class Masked(torch.autograd.Function):
    """Weights times masks, with the gradient of M = ``m`` as if the masks were ½·tanh(M) and a shift, not rounded."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, keep: Tensor, m: Tensor) -> Tensor:
        """Return ``weight`` where ``keep``, else 0."""
        ctx.save_for_backward(weight, keep, m)
        return weight * keep

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor]:
        """Return the gradients of ``weight`` and of ``m``."""
        weight, keep, m = ctx.saved_tensors
        # The weight's own gradient is that of the masked net; M's ignores the mask, or a masked weight could never come
        # back.
        return gradient * keep, None, gradient * weight * _slope(m)


def _slope(m: Tensor) -> Tensor:
    return SCALE * (1 - torch.tanh(m).square())


class WeightMasks(nn.Module):
    """One M per weight; ``weights`` say what each weight is called and what it takes of the budget."""

    def __init__(self, tensors: Sequence[Tensor], weights: Sequence[LayerWeight], lr: float) -> None:
        super().__init__()
        self._weights, self._lr = tuple(weights), lr
        # Zeros say nothing yet: the first masks are those of magnitude alone.
        self.logits = nn.ParameterList([nn.Parameter(torch.zeros_like(tensor)) for tensor in tensors])

    def values(self, weights: Sequence[Tensor], keeps: Sequence[Tensor]) -> list[Tensor]:
        """Per weight tensor, what its entries compete by: ½·tanh(M) and half the magnitude.

        Magnitudes are over the fourth root of the weight's price, halfway between no regard to prices and the square
        per price, and in units in which their root mean square is 1.
        """
        magnitudes = [value.abs() / of.price**0.25 for value, of in zip(weights, self._weights, strict=True)]
        total = sum(float(magnitude.square().sum()) for magnitude in magnitudes)
        # One unit for the whole net: with one per layer, magnitudes of different layers could not compete.
        unit = math.sqrt(total / max(1, sum(weight.size for weight in self._weights))) + 1e-12
        return [
            SCALE * (torch.tanh(m.detach()) + magnitude / unit)
            for m, magnitude in zip(self.logits, magnitudes, strict=True)
        ]

    def product(self, number: int, weight: Tensor, keep: Tensor) -> Tensor:
        """Return the masked weight, through which the loss reaches its M."""
        return cast(Tensor, Masked.apply(weight, keep, self.logits[number]))

    def own_parameters(self) -> list[dict[str, object]]:
        """Give the masks their own step and a gradient averaged over about ten steps.

        Their decay makes M a moving average of the gradient, in its unit size: what a weight is worth beside its
        magnitude, however long the training is.
        """
        # Dampening of 0.9 makes the momentum a plain average; without it the step would be ten times as long.
        own = {"momentum": 0.9, "dampening": 0.9, "weight_decay": 1.0, "lr": self._lr, "name": "masks"}
        return [{"params": list(self.logits), **own}]

    def before_step(self) -> None:
        """Scale the gradient of each layer's masks to a root mean square of 1, like that of a group of channels."""
        for m in self.logits:
            if m.grad is not None:
                # The gradient in the mask, not in M: the slope of tanh would let weights with a large M weigh less in
                # the mean.
                of_mask = m.grad / _slope(m.detach()).clamp_min(1e-3)
                m.grad /= of_mask.square().mean().sqrt() + 1e-12
