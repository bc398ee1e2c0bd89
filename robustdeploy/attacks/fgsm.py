"""FGSM: one step of full size along the sign of the gradient (Goodfellow, Shlens and Szegedy, ICLR 2015)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from robustdeploy.attacks.protocol import box, input_gradient, to_grey_levels
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat


@dataclass(frozen=True)
class Fgsm:
    """One full-size step from the clean image."""

    @property
    def label(self) -> str:
        """``fgsm``."""
        return "fgsm"

    def __call__(self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise) -> Tensor:
        """Return one adversarial image per input."""
        low, high = box(images, threat)
        gradient, _ = input_gradient(net, images, labels)
        # Whole grey levels, as in the box. A step of eps itself might round past the box and be cut there.
        stepped = images + threat.levels / 255 * gradient.sign()
        return to_grey_levels(stepped.clamp(low, high))


plugin = Fgsm
