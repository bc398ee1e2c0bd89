"""BIM: several signed gradient steps from the image itself (Kurakin, Goodfellow and Bengio, ICLR workshop 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from robustdeploy.attacks.ball import ball
from robustdeploy.attacks.signed_steps import Slope, climbed
from robustdeploy.core.bounds import Count, Step
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat


@dataclass(frozen=True)
class Bim:
    """PGD without a random start, so that nothing about it is random."""

    steps: Count = 10
    """Gradient steps."""
    alpha: Step | None = None
    """Step in pixels of [0, 1]; unset means eps / 4."""

    NORMS: ClassVar = ("linf", "l2", "l1")

    @property
    def label(self) -> str:
        """``bim-10``."""
        return f"bim-{self.steps}"

    def __call__(self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise) -> Tensor:
        """Return the strongest image found for each input."""
        best, _, _ = climbed(net, images, labels, ball(images, threat), self.steps, self.alpha, Slope())
        return best


plugin = Bim
