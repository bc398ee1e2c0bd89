"""ResNet-18 for small images: four stages of two residual blocks behind a 3×3 stem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ResNet18:
    """ResNet-18 in its usual form for CIFAR, with 1×1 convolutions where a shortcut changes the size."""

    width: Annotated[int, Field(ge=1, le=1024)] = 64
    """Channels of the first stage; each of the next three has twice as many as the one before."""

    def __call__(self, classes: int, channels: int) -> nn.Module:
        """Build the net with fresh weights from torch's global generator; the caller seeds it."""
        from robustdeploy.nets.residual import ResidualNet

        widths = [self.width * factor for factor in (1, 2, 4, 8)]
        return ResidualNet(2, widths, classes, channels, projection=True)


plugin = ResNet18
