"""The MNIST net of Galloway et al. 2018 and, at half its width, of Wang et al. 2018: three strided convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class WangCnn:
    """Convolutions of 8×8, 6×6 and 5×5 and a linear layer; 178,986 parameters at Wang's width of 32 on grey images."""

    width: Annotated[int, Field(ge=1, le=1024)] = 32
    """Channels of the first convolution; the others have twice as many. Galloway's net has 64."""
    binary: bool = False
    """Compute the last two convolutions with the signs of their inputs and weights (Galloway et al. 2018)."""

    def __call__(self, classes: int, channels: int) -> nn.Module:
        """Build the net with fresh weights from torch's global generator; the caller seeds it."""
        if self.binary:
            from robustdeploy.nets.binarised import BinarisedConvolutions

            return BinarisedConvolutions(self.width, classes, channels)
        from robustdeploy.nets.plain_conv import StridedConvolutions

        return StridedConvolutions(self.width, classes, channels)


plugin = WangCnn
