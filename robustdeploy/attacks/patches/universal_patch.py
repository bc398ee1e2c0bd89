"""Universal patch: one square for all images, learnt from validation images (Brown et al., "Adversarial patch", 2017).

It is laid at a random place of each image, without turning or scaling it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustdeploy.attacks.losses import margin_loss, targeted_cross_entropy
from robustdeploy.attacks.patches.protocol import Size, laid_over, random_places
from robustdeploy.attacks.protocol import to_grey_levels
from robustdeploy.core.bounds import Count, Positive, Step, Whole
from robustdeploy.data.noise import Noise


@dataclass(frozen=True)
class UniversalPatch:
    """Learns on images that nobody is judged on, at places drawn anew in every step."""

    area: Step = 0.05
    """Share of the image's area."""
    pixels: Count | None = None
    """Pixels a side instead."""
    target: Whole | None = None
    """Number of the class that it wants all images to be taken for; unset: any but their own."""
    steps: Count = 300
    batch: Count = 64
    """Validation images in a step."""
    lr: Positive = 0.05
    """Rate of Adam, in pixels of [0, 1]."""

    LEARNS: ClassVar[bool] = True

    @property
    def size(self) -> Size:
        """Of the square."""
        return Size(self.area, self.pixels)

    @property
    def label(self) -> str:
        """``universal-patch-5pct``, with the class that it wants."""
        return f"universal-patch-{self.size}" + ("" if self.target is None else f"-to-{self.target}")

    @property
    def learning_passes(self) -> int:
        """How many images go through the net while it learns."""
        return self.steps * self.batch

    def learn(self, net: nn.Module, images: Tensor, labels: Tensor, side: int, noise: Noise) -> Tensor:
        """Return the patch, C×S×S in whole grey levels, that ``images`` N×C×H×W taught."""
        patch = torch.full((images.shape[1], side, side), 0.5, device=images.device, requires_grad=True)
        optimiser = torch.optim.Adam([patch], self.lr)
        wanted = None if self.target is None else torch.full_like(labels, self.target)
        for step in range(self.steps):
            order = noise.uniform(2 * step, ()).argsort()[: self.batch]
            places = random_places(noise.select(order), 2 * step + 1, side, images.shape[2], images.shape[3])
            with torch.enable_grad():
                scores, own = net(laid_over(images[order], patch, places)), labels[order]
                # Beyond a small lead an image is lost, and the others are what is left to win.
                loss = (
                    margin_loss(scores, own).clamp_max(1.0)
                    if wanted is None
                    else targeted_cross_entropy(scores, own, wanted[order])
                )
                optimiser.zero_grad()
                (-loss.mean()).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            with torch.no_grad():
                patch.clamp_(0, 1)
        return to_grey_levels(patch.detach())

    def __call__(
        self, net: nn.Module, images: Tensor, labels: Tensor, side: int, noise: Noise, learnt: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return images with the patch at a random place of each, and where that is."""
        if learnt is None:
            raise ValueError("a universal patch is learnt before it is laid over images")
        places = random_places(noise, 0, side, images.shape[2], images.shape[3])
        return laid_over(images, learnt, places), places


plugin = UniversalPatch
