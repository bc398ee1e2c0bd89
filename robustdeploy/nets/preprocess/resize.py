"""Resize: images of another height and width, with the interpolation that the board uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from robustdeploy.core.bounds import Count
from robustdeploy.nets.preprocess.protocol import times


@dataclass(frozen=True)
class Resize:
    """Pixels are squares with centres, as in OpenCV, Pillow and torchvision. Nothing is rounded to 8 bits after it."""

    size: tuple[Count, Count] = (256, 256)
    """Height and width; the aspect is whatever these make of it."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "area"] = "bilinear"
    """``nearest`` as OpenCV and torch do it, not as Pillow does; ``area``: the mean of whole blocks of pixels."""
    antialias: bool = False
    """Average over all pixels that a new one covers, as Pillow and torchvision do; OpenCV does not."""

    def __post_init__(self) -> None:
        if self.antialias and self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"antialias is for bilinear and bicubic, not for {self.interpolation}; leave it out")

    def __call__(self, images: Tensor) -> Tensor:
        """Return N×C×H×W of ``size``."""
        height, width = self.size
        if self.interpolation == "area":
            rows, columns = images.shape[2] / height, images.shape[3] / width
            if rows % 1 or columns % 1:
                raise ValueError(
                    f"area takes whole blocks, and {times(images)} has none for {height}×{width}; take bilinear with "
                    "antialias: true"
                )
            return F.avg_pool2d(images, (int(rows), int(columns)))
        smooth = self.interpolation != "nearest"
        return F.interpolate(
            images,
            (height, width),
            mode=self.interpolation,
            align_corners=False if smooth else None,
            antialias=self.antialias,
        )


plugin = Resize
