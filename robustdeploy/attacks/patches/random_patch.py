"""Random patch: noise in a square anywhere; what is lost under it is what hiding so much of an image costs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from robustdeploy.attacks.patches.protocol import Size, laid_over, random_places
from robustdeploy.attacks.protocol import to_grey_levels
from robustdeploy.core.bounds import Count, Step
from robustdeploy.data.noise import Noise


@dataclass(frozen=True)
class RandomPatch:
    """Follows no gradient; each patch attack has one of its size beside it."""

    area: Step = 0.05
    """Share of the image's area."""
    pixels: Count | None = None
    """Pixels a side instead."""

    @property
    def size(self) -> Size:
        """Of the square."""
        return Size(self.area, self.pixels)

    @property
    def label(self) -> str:
        """``random-patch-5pct``."""
        return f"random-patch-{self.size}"

    def __call__(
        self, net: nn.Module, images: Tensor, labels: Tensor, side: int, noise: Noise, learnt: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return images with a square of uniform noise, and where it is."""
        places = random_places(noise, 0, side, images.shape[2], images.shape[3])
        patch = to_grey_levels(noise.uniform(1, (images.shape[1], side, side)))
        return laid_over(images, patch, places), places


plugin = RandomPatch
