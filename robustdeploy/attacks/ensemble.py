"""Ensemble: the three gradient attacks of AutoAttack one after the other (Croce and Hein, ICML 2020).

Each attacks only what those before it left standing. AutoAttack's fourth part, Square, asks the board itself: it stands
beside this one in a recipe, as ``{name: square, queries: 5000}``, and ``worst`` is then the worst case over all four.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustdeploy.attacks.apgd import Apgd
from robustdeploy.attacks.fab import Fab
from robustdeploy.attacks.losses import margin_loss
from robustdeploy.attacks.protocol import GradientAttack
from robustdeploy.core.bounds import Count
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat


@dataclass(frozen=True)
class Ensemble:
    """APGD by cross-entropy, APGD by DLR towards each of the likeliest classes, and FAB towards each of them."""

    steps: Count = 100
    """Gradient steps of each part, per start."""
    targets: Count = 9
    """Classes to be taken for, the likeliest first."""

    @property
    def label(self) -> str:
        """``ensemble-100-t9``."""
        return f"ensemble-{self.steps}-t{self.targets}"

    @property
    def parts(self) -> tuple[GradientAttack, ...]:
        """The attacks, in order."""
        return (
            Apgd(self.steps),
            Apgd(self.steps, loss="dlr", targets=self.targets),
            Fab(self.steps, targets=self.targets),
        )

    def __call__(self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise) -> Tensor:
        """Return a misclassified image where any part found one, and else that of the widest margin."""
        best, widest = images.clone(), torch.full((len(images),), -torch.inf, device=images.device)
        standing = torch.arange(len(images), device=images.device)
        for number, part in enumerate(self.parts):
            if not len(standing):
                break
            # Parts that shared their noise would begin at the same points.
            own = Noise(noise.key + number, noise.ids).select(standing)
            found = part(net, images[standing], labels[standing], threat, own)
            with torch.no_grad():
                margin = margin_loss(net(found), labels[standing])
            better = margin > widest[standing]
            best[standing[better]], widest[standing[better]] = found[better], margin[better]
            standing = standing[margin <= 0]
        return best


plugin = Ensemble
