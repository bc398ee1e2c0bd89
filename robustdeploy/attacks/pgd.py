"""PGD: projected gradient steps from random starts (Madry et al., ICLR 2018).

As in Wong, Rice and Kolter (ICLR 2020), an image that is already misclassified is left alone and, of all others, the
iterate of the highest loss is kept. Every iterate is rounded to whole grey levels before it is judged, so that no
success is lost when the image is stored in 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustdeploy.attacks.ball import ball
from robustdeploy.attacks.losses import LOSSES, suffix
from robustdeploy.attacks.signed_steps import Slope, climbed
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
        best = images.clone()
        best_loss = torch.full((len(images),), -torch.inf, device=images.device)
        standing = torch.arange(len(images), device=images.device)
        for restart in range(self.restarts):
            if not len(standing):
                break
            found, loss, fooled = self._one_start(
                net, images[standing], labels[standing], threat, noise.select(standing), restart
            )
            # Fooled goes before any loss: under cross-entropy an image may be wrong at a lower loss than another
            # restart had.
            better = fooled | (loss > best_loss[standing])
            best[standing[better]] = found[better]
            best_loss[standing[better]] = loss[better]
            # Only those that stand go on, so that restarts cost little where most images have fallen.
            standing = standing[~fooled]
        return best

    def _one_start(
        self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise, restart: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run one restart; return the best iterate per image, its loss, and whether it is misclassified."""
        room = ball(images, threat)
        start = room.kept(room.anywhere(noise, restart))
        return climbed(net, start, labels, room, self.steps, self.alpha, Slope(LOSSES[self.loss], self.eot or 1))


plugin = Pgd
