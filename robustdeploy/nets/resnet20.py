"""ResNet-20 for small images: another name for cifar-resnet with depth 20."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from robustdeploy.nets.cifar_resnet import CifarResNet

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ResNet20:
    """ResNet-20, by the name that recipes and stored nets know it by."""

    width: Annotated[int, Field(ge=1, le=1024)] = 16
    """Channels of the first stage; the next two have twice and four times as many."""

    def __call__(self, classes: int, channels: int) -> nn.Module:
        """Build the net with fresh weights from torch's global generator; the caller seeds it."""
        return CifarResNet(20, self.width)(classes, channels)


plugin = ResNet20
