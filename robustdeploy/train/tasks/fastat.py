"""FastAT: adversarial training with one signed gradient step from a random start (Wong, Rice and Kolter, ICLR 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from robustdeploy.core.bounds import NotNegative, Share, Step
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat
from robustdeploy.train.mixing import check_l1, check_share, mixed
from robustdeploy.train.tasks.ascent import ball, check_step, inside, spread, step_up


@dataclass(frozen=True)
class FastAt:
    """Train on one perturbed copy of each image; both passes run in training mode, as in the paper's code."""

    single_step: ClassVar[bool] = True

    alpha: Step | None = None
    """Step in pixels of [0, 1]; unset means 1.25 · eps, the paper's 10/255 at eps 8/255."""
    clean: Share = 0.0
    """Share of the loss, in [0, 1), that the images have as they are (Wang et al. 2018)."""
    l1: NotNegative = 0.0
    """Weight in the loss of the mean magnitude of latent features, which makes them sparse (Guo et al. 2018)."""

    def __post_init__(self) -> None:
        check_step(self.alpha)
        check_share(self.clean)
        check_l1(self.l1)

    def __call__(
        self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise
    ) -> Mapping[str, Tensor]:
        """Return the cross-entropy on the perturbed batch, and the accuracy on it."""
        room = ball(images, threat.eps)
        # Wong et al. clamp the start into [0, 1] too; else the step would be taken where no image can lie.
        start = inside(images + spread(noise.uniform(0, tuple(images.shape[1:])), threat.eps), room)
        alpha = 1.25 * threat.eps if self.alpha is None else self.alpha
        attacked = step_up(
            lambda moved: nn.functional.cross_entropy(net(moved).float(), labels), start, alpha, room, "FastAT"
        )
        return mixed(net, attacked, images, labels, self.clean, self.l1)


plugin = FastAt
