"""Standard training on clean images, for comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from robustdeploy.data.noise import Noise
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.types import Threat


@dataclass(frozen=True)
class Standard:
    """Minimise the cross-entropy on the images as they are."""

    def __call__(
        self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise
    ) -> Mapping[str, Tensor]:
        """Return the cross-entropy, and the accuracy."""
        scores = net(images).float()
        return {
            "loss": nn.functional.cross_entropy(scores, labels),
            "accuracy": CLASSIFICATION.right(scores.detach(), labels).float().mean(),
        }


plugin = Standard
