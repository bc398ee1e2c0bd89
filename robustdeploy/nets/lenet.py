"""LeNet-5 in the form of Caffe: 20 and 50 channels of 5×5, 500 hidden units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class LeNet:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling, for images of at least 28 pixels."""

    first: Annotated[int, Field(ge=1, le=4096)] = 20
    """Channels of the first convolution."""
    second: Annotated[int, Field(ge=1, le=4096)] = 50
    """Channels of the second convolution."""
    hidden: Annotated[int, Field(ge=1, le=65536)] = 500
    """Units of the hidden linear layer."""

    def __call__(self, classes: int, channels: int) -> nn.Module:
        """Build the net with fresh weights from torch's global generator; the caller seeds it."""
        from robustdeploy.nets.plain_conv import LeNetCaffe

        return LeNetCaffe((self.first, self.second, self.hidden), classes, channels)


plugin = LeNet
