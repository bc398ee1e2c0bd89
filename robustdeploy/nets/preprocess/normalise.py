"""Normalise: (x - mean) / std per channel, in place of the normalisation by the data set's own statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor


@dataclass(frozen=True)
class Normalise:
    """Pixels are in [0, 1]; a net that reads 0 to 255 has mean 0 and std 1/255."""

    NORMALISES: ClassVar[bool] = True
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """One number for all channels, or one for each, in the order of the step before; unset: ImageNet's."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Of the same form."""

    def __post_init__(self) -> None:
        if not self.mean or not self.std or min(self.std) <= 0:
            raise ValueError("mean and std need one number, or one per channel, and std must be above 0")

    def __call__(self, images: Tensor) -> Tensor:
        """Return N×C×H×W, normalised."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, images.shape[1]):
                raise ValueError(f"{name} has {len(values)} numbers, and images have {images.shape[1]} channels")
        return (images - images.new_tensor(self.mean).view(-1, 1, 1)) / images.new_tensor(self.std).view(-1, 1, 1)


plugin = Normalise
