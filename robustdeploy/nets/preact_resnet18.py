"""PreActResNet-18 for small images, the net of the FastAT experiments on CIFAR-10."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class PreactResNet18:
    """Four stages of two blocks that normalise and activate before each convolution."""

    width: Annotated[int, Field(ge=1, le=1024)] = 64
    """Channels of the stem and the first stage; each of the next three has twice as many as the one before."""

    def __call__(self, classes: int, channels: int) -> nn.Module:
        """Build the net with fresh weights from torch's global generator; the caller seeds it."""
        from robustdeploy.nets.preact_resnet import PreactResNet

        widths = [self.width * factor for factor in (1, 2, 4, 8)]
        return PreactResNet(2, self.width, widths, classes, channels)


plugin = PreactResNet18
