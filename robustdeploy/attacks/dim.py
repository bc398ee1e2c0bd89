"""DIM: MIM along gradients at images that are shrunk and moved at random (Xie et al., CVPR 2019), for transfer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustdeploy.attacks.ball import ball
from robustdeploy.attacks.losses import Loss, cross_entropy
from robustdeploy.attacks.mim import Momentum
from robustdeploy.attacks.protocol import input_gradient
from robustdeploy.attacks.signed_steps import climbed
from robustdeploy.core.bounds import Count, NotNegative, Rate, Share, Step
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat


@dataclass(frozen=True)
class Dim:
    """As ``mim``, but in each step the gradient of most images is taken where they are smaller, with a black frame."""

    steps: Count = 10
    """Gradient steps; each scores the images once more, as they are."""
    alpha: Step | None = None
    """Step in pixels of [0, 1]; unset means eps / 4."""
    decay: NotNegative = 1.0
    """What the sum of gradients so far is multiplied by in each step."""
    chance: Rate = 0.5
    """How often an image is shrunk."""
    smallest: Share = 0.9
    """Least share of its height and width that it is shrunk to."""

    NORMS: ClassVar = ("linf", "l2", "l1")

    @property
    def label(self) -> str:
        """``dim-10``."""
        return f"dim-{self.steps}"

    def __call__(self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise) -> Tensor:
        """Return the strongest image found for each input."""
        along = Momentum(_Diverse(noise, self.chance, self.smallest), self.decay, torch.zeros_like(images))
        best, _, _ = climbed(net, images, labels, ball(images, threat), self.steps, self.alpha, along)
        return best


@dataclass(frozen=True)
class _Diverse:
    """The gradient at shrunk and moved images; the scores are those of the images themselves."""

    noise: Noise
    chance: float
    smallest: float
    loss: Loss = cross_entropy

    def __call__(
        self, net: nn.Module, images: Tensor, labels: Tensor, active: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients and the scores."""
        drawn = self.noise.select(active).uniform(step, (4,)).to(images.dtype)
        gradient, _ = input_gradient(lambda given: net(self.shrunk(given, drawn)), images, labels, self.loss)
        with torch.no_grad():
            return gradient, net(images)

    def shrunk(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Shrink each of N×C×H×W images by its own four numbers of [0, 1): whether, how much, and where it lies."""
        if not len(images):
            return images  # torch has no grid for none
        size = torch.where(drawn[:, 0] < self.chance, self.smallest + (1 - self.smallest) * drawn[:, 1], 1.0)
        # The frame is shared out between both sides; in the grid's units the image is 2 wide.
        moved = (1 - size)[:, None] * (2 * drawn[:, 2:] - 1)
        zeros = torch.zeros_like(size)
        # A grid says for each place of the result where in the image it comes from.
        rows = [
            torch.stack([1 / size, zeros, -moved[:, 0] / size], 1),
            torch.stack([zeros, 1 / size, -moved[:, 1] / size], 1),
        ]
        grid = nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
        return nn.functional.grid_sample(images, grid, align_corners=False)


plugin = Dim
