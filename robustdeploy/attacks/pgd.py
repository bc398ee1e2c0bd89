"""PGD: projected gradient steps from random starts (Madry et al., ICLR 2018).

As in Wong, Rice and Kolter (ICLR 2020), an image that is already misclassified is left alone and, of all others, the
iterate of the highest loss is kept. Every iterate is rounded to whole grey levels before it is judged, so that no
success is lost when the image is stored in 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from robustdeploy.attacks.ball import Ball, ball
from robustdeploy.attacks.losses import LOSSES, suffix
from robustdeploy.attacks.signed_steps import Slope, climbed, restarted
from robustdeploy.core.bounds import Count, LossName, Step
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat


@dataclass(frozen=True)
class Pgd:
    """Gradient steps of length ``alpha``, projected into the ball after each; in ℓ∞ along the gradient's signs."""

    steps: Count = 10
    """Gradient steps per restart."""
    restarts: Count = 1
    """Random starts; later ones attack only the images that still stand."""
    alpha: Step | None = None
    """Step in pixels of [0, 1]; unset means eps / 4, which is 2/255 at eps 8/255."""
    loss: LossName = "cross-entropy"
    """What the steps climb; ``margin`` often finds what cross-entropy leaves, and the other way round."""
    eot: Count | None = None
    """Passes whose gradients are averaged in each step, for a net that answers by chance; unset means one."""

    NORMS: ClassVar = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise ValueError("steps and restarts must be at least 1")
        if self.eot is not None and self.eot < 1:
            raise ValueError(f"eot must be at least 1, not {self.eot}")
        if self.alpha is not None and not 0 < self.alpha <= 1:
            raise ValueError(f"alpha must be in (0, 1], not {self.alpha}")

    @property
    def label(self) -> str:
        """``pgd-50-10`` for 50 steps from each of 10 starts; ``-margin`` or ``-dlr`` by loss, ``-eot20`` by passes."""
        restarts = f"-{self.restarts}" if self.restarts > 1 else ""
        passes = f"-eot{self.eot}" if self.eot else ""
        return f"pgd-{self.steps}{restarts}{suffix(self.loss)}{passes}"

    def __call__(self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise) -> Tensor:
        """Return the strongest image found for each input."""
        slope = Slope(LOSSES[self.loss], self.eot or 1)

        def climb(standing: Tensor, start: Tensor, room: Ball) -> tuple[Tensor, Tensor, Tensor]:
            return climbed(net, start, labels[standing], room, self.steps, self.alpha, slope)

        return restarted(ball(images, threat), labels, noise, self.restarts, climb)


plugin = Pgd
