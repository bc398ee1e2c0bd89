"""Standard training on clean images, for comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from robustdeploy.core.bounds import NotNegative
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat
from robustdeploy.train.features import latent, magnitude
from robustdeploy.train.mixing import accuracy, check_l1, sparse


@dataclass(frozen=True)
class Standard:
    """Minimise the cross-entropy on the images as they are."""

    l1: NotNegative = 0.0
    """Weight in the loss of the mean magnitude of latent features, which makes them sparse (Guo et al. 2018)."""

    NORMS: ClassVar = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        check_l1(self.l1)

    def __call__(
        self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise
    ) -> Mapping[str, Tensor]:
        """Return the cross-entropy, and the accuracy."""
        if self.l1:
            with latent(net) as maps:
                numbers = _numbers(net, images, labels)
            return sparse(numbers, magnitude(maps), self.l1)
        return _numbers(net, images, labels)


def _numbers(net: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    scores = net(images).float()
    return {"loss": nn.functional.cross_entropy(scores, labels), "accuracy": accuracy(scores, labels)}


plugin = Standard
