"""Free: every pass back moves the weights and the perturbation alike (Shafahi et al., NeurIPS 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustdeploy.core.bounds import Count, NotNegative, Share
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat
from robustdeploy.train.mixing import check_l1, check_share, mixed
from robustdeploy.train.tasks.ascent import check_count, reaching, slope


@dataclass(frozen=True)
class Free:
    """Train on each batch ``replays`` times, under one perturbation that goes on from batch to batch.

    The perturbation starts at zero and belongs to a place in the batch, not to an image. Image plus perturbation is cut
    to [0, 1], but its gradient passes the cut: else a black pixel, once pushed further down, could never come up again.
    """

    single_step: ClassVar[bool] = True

    replays: Count = 8
    """Optimiser steps on each batch, the paper's m."""
    clean: Share = 0.0
    """Share of the loss, in [0, 1), that the images have as they are (Wang et al. 2018)."""
    l1: NotNegative = 0.0
    """Weight in the loss of the mean magnitude of latent features, which makes them sparse (Guo et al. 2018)."""

    def __post_init__(self) -> None:
        check_count("replays", self.replays)
        check_share(self.clean)
        check_l1(self.l1)

    def start(self, images: Tensor) -> Tensor:
        """Return no perturbation at all."""
        return torch.zeros_like(images)

    def perturbed(
        self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, perturbation: Tensor
    ) -> Mapping[str, Tensor]:
        """Return the cross-entropy on ``images`` + ``perturbation``, cut to [0, 1], and the accuracy on it."""
        shifted = images + perturbation
        attacked = shifted + (shifted.clamp(0, 1) - shifted).detach()  # exactly the clamped value, with slope 1
        return mixed(net, attacked, images, labels, self.clean, self.l1)

    def climb(self, perturbation: Tensor, gradient: Tensor | None, threat: Threat) -> Tensor:
        """Return ``perturbation`` moved by eps along the gradient's sign, cut to ± eps.

        Raises TrainingError when there is no gradient, because the net cuts the graph.
        """
        moved = perturbation.detach() + threat.eps * reaching(gradient, "Free").sign()
        return moved.clamp(-threat.eps, threat.eps)

    def __call__(
        self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise
    ) -> Mapping[str, Tensor]:
        """Return the same numbers for a batch by itself: under what ``replays`` climbs from zero reach.

        For where nothing is carried and the weights rest, such as the settling of batch normalisation. It is the same
        for any ``noise``.
        """
        perturbation = self.start(images)

        def loss(added: Tensor) -> Tensor:
            return self.perturbed(net, images, labels, threat, added)["loss"]

        for _ in range(self.replays):
            perturbation = self.climb(perturbation, slope(loss, perturbation, "Free"), threat)
        return self.perturbed(net, images, labels, threat, perturbation)


plugin = Free
