"""Randomised FGS: a random step first, then one along the sign of the gradient there (Tramèr et al., ICLR 2018).

The random step takes it away from where a net was trained to have a small gradient. Guo et al. (NeurIPS 2018) call the
accuracy under FGS and under this the r∞ of a net.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from robustdeploy.attacks.protocol import box, input_gradient, to_grey_levels
from robustdeploy.core.bounds import Step
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat


@dataclass(frozen=True)
class Rfgs:
    """A step of ``alpha`` to a random corner, and one of what is left of eps along the gradient's sign."""

    alpha: Step | None = None
    """Random step in pixels of [0, 1]; unset means eps / 2."""

    @property
    def label(self) -> str:
        """``rfgs``."""
        return "rfgs"

    def __call__(self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise) -> Tensor:
        """Return one adversarial image per input."""
        low, high = box(images, threat)
        # Whole grey levels, as in the box, and never beyond it: what is left for the gradient may be nothing.
        asked = threat.levels / 2 if self.alpha is None else 255 * self.alpha
        random = min(threat.levels, math.floor(asked + 1e-9))
        # The sign of a normal draw is a fair coin.
        signs = 2 * (noise.uniform(0, tuple(images.shape[1:])) >= 0.5).to(images.dtype) - 1
        begun = to_grey_levels((images + random / 255 * signs).clamp(low, high))
        gradient, _ = input_gradient(net, begun, labels)
        stepped = begun + (threat.levels - random) / 255 * gradient.sign()
        return to_grey_levels(stepped.clamp(low, high))


plugin = Rfgs
