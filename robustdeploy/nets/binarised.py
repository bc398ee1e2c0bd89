"""Binarised layers: inputs and weights of a convolution as their signs, which the gradient passes straight through.

Galloway, Taylor and Moussa, "Attacking binarized neural networks" (ICLR 2018); Hubara et al. (NIPS 2016) for the
gradient, which is that of the number itself where it lies in [-1, 1], and 0 beyond.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustdeploy.nets.plain_conv import pooled_to, refuse_smaller

SCALE = 0.05
"""What the learnt scalar of each layer begins with; without one, sums of signs are so large that gradients vanish."""


def sign(x: Tensor) -> Tensor:
    """Return 1 where ``x`` is 0 or more and -1 elsewhere; the gradient is 1 where ``x`` lies in [-1, 1], else 0."""
    hard = torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
    # The added term is 0 in value. An export has nothing to learn, and leaves it out.
    if torch.compiler.is_exporting() or not torch.is_grad_enabled():
        return hard
    within = torch.where(x.abs() <= 1, x, torch.zeros_like(x))
    return hard + (within - within.detach())


class BinaryConv2d(nn.Conv2d):
    """A convolution of the signs of its inputs by the signs of its weights, without a bias."""

    def __init__(self, before: int, after: int, size: int, stride: int = 1) -> None:
        super().__init__(before, after, size, stride=stride, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """Map N×in×H×W to N×out×H'×W'."""
        return F.conv2d(sign(input), sign(self.weight), None, self.stride)


class ScaledReLU(nn.Module):
    """ReLU times a learnt scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(SCALE))

    def forward(self, images: Tensor) -> Tensor:
        """Scale what is above 0."""
        return self.scale * F.relu(images)


class BinarisedConvolutions(nn.Module):
    """The net of ``StridedConvolutions`` whose last two convolutions are binary; the ends are in full precision."""

    def __init__(self, width: int, classes: int, channels: int) -> None:
        super().__init__()
        first = (nn.Conv2d(channels, width, 8, stride=2, padding=3), nn.ReLU())
        second = (nn.BatchNorm2d(width), BinaryConv2d(width, 2 * width, 6, stride=2), ScaledReLU())
        third = (nn.BatchNorm2d(2 * width), BinaryConv2d(2 * width, 2 * width, 5), ScaledReLU())
        self.features = nn.Sequential(*first, *second, *third)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map N×C×H×W to N×classes logits; H and W are at least 28."""
        refuse_smaller(images, 28, "this net")
        logits: Tensor = self.fc(torch.flatten(pooled_to(self.features(images), 1), 1))
        return logits
