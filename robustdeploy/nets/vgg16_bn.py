"""VGG-16 with batch normalisation for small images: 13 convolutions and a small head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Vgg16Bn:
    """VGG-16 (Simonyan and Zisserman, ICLR 2015) in its CIFAR forms, for images of at least 16 pixels."""

    head: Literal["pool", "hydra"] = "pool"
    """``pool``: average to 1×1, one linear layer. ``hydra``: 2×2, then 256, 256 and the classes, as in HYDRA."""
    width: Annotated[int, Field(ge=1, le=1024)] = 64
    """Channels of the first stage; the others have 2, 4, 8 and 8 times as many."""

    def __call__(self, classes: int, channels: int) -> nn.Module:
        """Build the net with fresh weights from torch's global generator; the caller seeds it."""
        from robustdeploy.nets.plain_conv import VggBn

        w = self.width
        # Configuration D of the paper. Four halvings before the fifth stage are why images need 16 pixels at least.
        stages = ([w] * 2, [2 * w] * 2, [4 * w] * 3, [8 * w] * 3, [8 * w] * 3)
        if self.head == "hydra":
            return VggBn(stages, 2, (256, 256), classes, channels)
        return VggBn(stages, 1, (), classes, channels)


plugin = Vgg16Bn
