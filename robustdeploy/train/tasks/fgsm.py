"""FGSM: adversarial training with one signed gradient step from the image itself (Goodfellow et al., ICLR 2015)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import erf, sqrt
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from robustdeploy.core.bounds import NotNegative, Share
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat
from robustdeploy.train.mixing import check_l1, check_share, mixed
from robustdeploy.train.tasks.ascent import ball, inside, slope

CUT = 2
"""Standard deviations at which the normal distribution of eps is cut."""


@dataclass(frozen=True)
class FgsmAt:
    """Train on the end of one step of length eps. Without a random start it mostly learns to beat this step alone."""

    single_step: ClassVar[bool] = True

    draw: Literal["fixed", "truncated-normal"] = "fixed"
    """Length of each image's step: the threat's eps, or drawn as |N(0, eps/2)| cut at eps (Kurakin et al. 2017)."""
    clean: Share = 0.0
    """Share of the loss, in [0, 1), that the images have as they are (Wang et al. 2018)."""
    l1: NotNegative = 0.0
    """Weight in the loss of the mean magnitude of latent features, which makes them sparse (Guo et al. 2018)."""

    def __post_init__(self) -> None:
        check_share(self.clean)
        check_l1(self.l1)

    def __call__(
        self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise
    ) -> Mapping[str, Tensor]:
        """Return the cross-entropy on the perturbed batch, and the accuracy on it."""
        along = slope(lambda moved: nn.functional.cross_entropy(net(moved).float(), labels), images, "FGSM").sign()
        eps = threat.eps * self._lengths(images, noise)
        return mixed(net, inside(images + eps * along, ball(images, threat.eps)), images, labels, self.clean, self.l1)

    def _lengths(self, images: Tensor, noise: Noise) -> Tensor:
        """Return each image's step as a share of eps, N×1×1×1."""
        if self.draw == "fixed":
            return images.new_ones(len(images), 1, 1, 1)
        # By the inverse of the distribution function, so that one number of the noise is one length.
        uniform = noise.uniform(0, (1, 1, 1)).to(images.dtype)
        return torch.erfinv(uniform * erf(CUT / sqrt(2))) * sqrt(2) / CUT


plugin = FgsmAt
