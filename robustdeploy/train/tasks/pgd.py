"""PGD: adversarial training on the last of several projected gradient steps (Madry et al., ICLR 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from robustdeploy.core.bounds import Count, NotNegative, Share, Step
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat
from robustdeploy.train.mixing import check_l1, check_share, mixed
from robustdeploy.train.tasks.ascent import ball, check_count, check_step, inside, spread, step_up


@dataclass(frozen=True)
class PgdAt:
    """Train on the images that ``steps`` steps from a random start reach; all passes run in training mode."""

    steps: Count = 7
    """Gradient steps per batch; each costs a pass forward and back."""
    alpha: Step | None = None
    """Step in pixels of [0, 1]; unset means eps / 4, the paper's 2/255 at eps 8/255."""
    clean: Share = 0.0
    """Share of the loss, in [0, 1), that the images have as they are (Wang et al. 2018)."""
    l1: NotNegative = 0.0
    """Weight in the loss of the mean magnitude of latent features, which makes them sparse (Guo et al. 2018)."""

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_step(self.alpha)
        check_share(self.clean)
        check_l1(self.l1)

    def __call__(
        self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise
    ) -> Mapping[str, Tensor]:
        """Return the cross-entropy on the perturbed batch, and the accuracy on it."""
        room = ball(images, threat.eps)
        attacked = inside(images + spread(noise.uniform(0, tuple(images.shape[1:])), threat.eps), room)
        alpha = threat.eps / 4 if self.alpha is None else self.alpha
        for _ in range(self.steps):
            attacked = step_up(
                lambda moved: nn.functional.cross_entropy(net(moved).float(), labels), attacked, alpha, room, "PGD"
            )
        return mixed(net, attacked, images, labels, self.clean, self.l1)


plugin = PgdAt
