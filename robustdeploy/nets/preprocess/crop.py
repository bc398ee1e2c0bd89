"""Crop: the middle of an image, or a part of it that always lies at the same place."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustdeploy.core.bounds import Count, Whole
from robustdeploy.nets.preprocess.protocol import times


@dataclass(frozen=True)
class Crop:
    """A window that is cut out. Where one row more is left over, it is below; one column more is on the right."""

    size: tuple[Count, Count] = (224, 224)
    """Height and width."""
    top: Whole | None = None
    """First row; unset: the window is in the middle."""
    left: Whole | None = None
    """First column; unset: the window is in the middle."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return N×C×H×W of ``size``."""
        (height, width), (rows, columns) = self.size, images.shape[2:]
        top = (rows - height) // 2 if self.top is None else self.top
        left = (columns - width) // 2 if self.left is None else self.left
        if not (0 <= top <= rows - height and 0 <= left <= columns - width):
            raise ValueError(f"a window of {height}×{width} at {top}, {left} lies outside of {times(images)}")
        return images[:, :, top : top + height, left : left + width]


plugin = Crop
