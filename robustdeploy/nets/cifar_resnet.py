"""ResNet for small images, of any depth: three stages of (depth - 2) / 6 residual blocks (He et al., CVPR 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class CifarResNet:
    """The form of the CIFAR experiments, with shortcuts that have no parameters."""

    depth: Annotated[int, Field(ge=8, le=1202)] = 20
    """Layers with weights: 6n + 2, such as 8, 20, 32, 44, 56 or 110."""
    width: Annotated[int, Field(ge=1, le=1024)] = 16
    """Channels of the first stage; the next two have twice and four times as many."""

    def __post_init__(self) -> None:
        # Three stages of n blocks with two convolutions each, the stem and the linear layer.
        if self.depth % 6 != 2:
            nearest = max(8, 6 * round((self.depth - 2) / 6) + 2)
            raise ValueError(f"depth must be 6n + 2, such as {nearest}, not {self.depth}")

    def __call__(self, classes: int, channels: int) -> nn.Module:
        """Build the net with fresh weights from torch's global generator; the caller seeds it."""
        from robustdeploy.nets.residual import ResidualNet

        return ResidualNet((self.depth - 2) // 6, (self.width, 2 * self.width, 4 * self.width), classes, channels)


plugin = CifarResNet
