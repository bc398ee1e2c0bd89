"""MIM: signed steps along a gradient with momentum (Dong et al., CVPR 2018); what it finds often fools other nets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustdeploy.attacks.ball import ball
from robustdeploy.attacks.losses import Loss
from robustdeploy.attacks.signed_steps import Direction, Slope, climbed
from robustdeploy.core.bounds import Count, NotNegative, Step
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat


@dataclass(frozen=True)
class Mim:
    """Steps from the image itself along the sum of all gradients so far, each divided by its mean size."""

    steps: Count = 10
    """Gradient steps."""
    alpha: Step | None = None
    """Step in pixels of [0, 1]; unset means eps / 4."""
    decay: NotNegative = 1.0
    """What the sum so far is multiplied by in each step."""

    NORMS: ClassVar = ("linf", "l2", "l1")

    @property
    def label(self) -> str:
        """``mim-10``."""
        return f"mim-{self.steps}"

    def __call__(self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise) -> Tensor:
        """Return the strongest image found for each input."""
        along = Momentum(Slope(), self.decay, torch.zeros_like(images))
        best, _, _ = climbed(net, images, labels, ball(images, threat), self.steps, self.alpha, along)
        return best


@dataclass(frozen=True)
class Momentum:
    """The decayed sum of the directions that ``of`` gave, each divided by the mean of its absolute values."""

    of: Direction
    decay: float
    sum: Tensor
    """Of each image of the batch; it is added to in place."""

    @property
    def loss(self) -> Loss:
        """What is climbed."""
        return self.of.loss

    def __call__(
        self, net: nn.Module, images: Tensor, labels: Tensor, active: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        """Return the sum of the images at ``active``, and their scores."""
        gradient, scores = self.of(net, images, labels, active, step)
        size = gradient.abs().flatten(1).mean(1).view(-1, *[1] * (images.dim() - 1))
        self.sum[active] = self.decay * self.sum[active] + gradient / size.clamp_min(torch.finfo(size.dtype).tiny)
        return self.sum[active], scores


plugin = Mim
