"""FGSM: one step of full size along the sign of the gradient (Goodfellow, Shlens and Szegedy, ICLR 2015).

In ℓ2 it is along the gradient itself, the fast gradient method, and in ℓ1 along its largest values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from robustdeploy.attacks.ball import ball
from robustdeploy.attacks.protocol import input_gradient
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat


@dataclass(frozen=True)
class Fgsm:
    """One full-size step from the clean image."""

    NORMS: ClassVar = ("linf", "l2", "l1")

    @property
    def label(self) -> str:
        """``fgsm``."""
        return "fgsm"

    def __call__(self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise) -> Tensor:
        """Return one adversarial image per input."""
        room = ball(images, threat)
        gradient, _ = input_gradient(net, images, labels)
        # By a radius in whole grey levels: a step of eps itself might round past a box and be cut there.
        return room.whole(room.furthest(gradient))


plugin = Fgsm
