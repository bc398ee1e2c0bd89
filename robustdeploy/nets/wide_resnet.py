"""Wide residual net (WRN-28-4 unless told otherwise) for small images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class WideResNet:
    """WRN-``depth``-``width``: three stages of wide blocks that activate before each convolution; no dropout."""

    depth: Annotated[int, Field(ge=10, le=1000)] = 28
    """Layers with weights, 6n+4: n blocks in each stage."""
    width: Annotated[int, Field(ge=1, le=64)] = 4
    """How many times wider than 16, 32 and 64 channels the stages are."""

    def __post_init__(self) -> None:
        if (self.depth - 4) % 6:
            below = self.depth - (self.depth - 4) % 6
            raise ValueError(f"depth must be 6n+4 and is {self.depth}; the nearest are {below} and {below + 6}")

    def __call__(self, classes: int, channels: int) -> nn.Module:
        """Build the net with fresh weights from torch's global generator; the caller seeds it."""
        from robustdeploy.nets.preact_resnet import PreactResNet

        widths = [16 * self.width * factor for factor in (1, 2, 4)]
        # The stem stays at 16 channels whatever the width (Zagoruyko and Komodakis, table 1).
        return PreactResNet((self.depth - 4) // 6, 16, widths, classes, channels)


plugin = WideResNet
