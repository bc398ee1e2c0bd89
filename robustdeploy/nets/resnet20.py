"""ResNet-20 for small images: three stages of 3 residual blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ResNet20:
    """ResNet-20 in the form of the CIFAR experiments, with shortcuts that have no parameters."""

    width: Annotated[int, Field(ge=1, le=1024)] = 16
    """Channels of the first stage; the next two have twice and four times as many."""

    def __call__(self, classes: int, channels: int) -> nn.Module:
        """Build the net with fresh weights from torch's global generator; the caller seeds it."""
        from robustdeploy.nets.cifar_resnet import CifarResNet

        return CifarResNet(3, (self.width, 2 * self.width, 4 * self.width), classes, channels)


plugin = ResNet20
