"""LeNet-300-100: two hidden linear layers on the pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class LeNet300:
    """LeNet-300-100 (LeCun et al. 1998) with ReLU; larger images are averaged down to ``side``×``side`` pixels."""

    first: Annotated[int, Field(ge=1, le=65536)] = 300
    """Units of the first hidden layer."""
    second: Annotated[int, Field(ge=1, le=65536)] = 100
    """Units of the second hidden layer."""
    side: Annotated[int, Field(ge=1, le=224)] = 28
    """Rows and columns of pixels that the first layer reads."""

    def __call__(self, classes: int, channels: int) -> nn.Module:
        """Build the net with fresh weights from torch's global generator; the caller seeds it."""
        from robustdeploy.nets.plain_linear import LinearLayers

        return LinearLayers((self.first, self.second), self.side, classes, channels)


plugin = LeNet300
