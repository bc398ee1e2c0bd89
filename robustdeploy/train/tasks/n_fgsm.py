"""N-FGSM: one signed gradient step from strong noise, not projected onto the ball (de Jorge et al., NeurIPS 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

from torch import Tensor, nn

from robustdeploy.core.bounds import NotNegative, Share, Step
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat
from robustdeploy.train.mixing import check_l1, check_share, mixed
from robustdeploy.train.tasks.ascent import anywhere, check_step, inside, spread, step_up


@dataclass(frozen=True)
class NFgsm:
    """Train on images that may lie outside the eps-ball, up to noise · eps + alpha away.

    The paper's algorithm clips nothing; its code keeps images in [0, 1], after the noise and after the step, and so
    does this. Both passes run in training mode, as in that code.
    """

    single_step: ClassVar[bool] = True

    noise: NotNegative = 2.0
    """The noise is uniform in ± noise · eps; 2 is the paper's."""
    alpha: Step | None = None
    """Step in pixels of [0, 1]; unset means eps, the paper's."""
    clean: Share = 0.0
    """Share of the loss, in [0, 1), that the images have as they are (Wang et al. 2018)."""
    l1: NotNegative = 0.0
    """Weight in the loss of the mean magnitude of latent features, which makes them sparse (Guo et al. 2018)."""

    def __post_init__(self) -> None:
        check_step(self.alpha)
        check_share(self.clean)
        check_l1(self.l1)
        if not (isfinite(self.noise) and self.noise >= 0):
            raise ValueError(f"noise must be a multiple of eps, 0 or more, not {self.noise}")

    def __call__(
        self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise
    ) -> Mapping[str, Tensor]:
        """Return the cross-entropy on the perturbed batch, and the accuracy on it."""
        room = anywhere(images)
        start = inside(images + spread(noise.uniform(0, tuple(images.shape[1:])), self.noise * threat.eps), room)
        alpha = threat.eps if self.alpha is None else self.alpha
        attacked = step_up(
            lambda moved: nn.functional.cross_entropy(net(moved).float(), labels), start, alpha, room, "N-FGSM"
        )
        return mixed(net, attacked, images, labels, self.clean, self.l1)


plugin = NFgsm
