"""Colour order: the channels in another order, such as blue, green, red for a net that was trained with OpenCV."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustdeploy.nets.preprocess.protocol import times


@dataclass(frozen=True)
class ColourOrder:
    """Images come in as red, green, blue."""

    order: Literal["rgb", "bgr", "brg", "gbr", "grb", "rbg"] = "bgr"
    """First letters of the channels, in the order in which the net reads them."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return N×3×H×W with the channels moved."""
        if images.shape[1] != 3:
            raise ValueError(f"an order of colours needs images of 3 channels, and these are {times(images)}")
        # An order that changes nothing costs a board nothing.
        if self.order == "rgb":
            return images
        return images.index_select(1, torch.tensor(["rgb".index(each) for each in self.order], device=images.device))


plugin = ColourOrder
