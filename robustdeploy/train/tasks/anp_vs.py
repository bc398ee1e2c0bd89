"""ANP-VS: weights learn not to let an attack move latent features, masks learn from the attacked images alone.

Madaan, Shin and Hwang, "Adversarial neural pruning with latent vulnerability suppression" (ICML 2020). Without a pruner
it is adversarial training with vulnerability suppression alone (AT-VS).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

from torch import Tensor, nn

from robustdeploy.core.bounds import Count, NotNegative, Share, Step
from robustdeploy.cost.module import evaluating
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat
from robustdeploy.train.features import latent, vulnerability
from robustdeploy.train.mixing import accuracy, both, check_share
from robustdeploy.train.protocol import ADVERSARIAL, MASK_LOSS
from robustdeploy.train.tasks.ascent import ball, check_count, check_step, inside, spread, step_up


@dataclass(frozen=True)
class AnpVs:
    """Minimise both cross-entropies and the vulnerability of latent features; masks follow the attacked images'.

    As in the authors' program the attack sees the net in eval mode. Two things differ: clean and attacked images go
    through the net as one batch, under the same masks, so that what features move by is due to the attack; and the
    vulnerability of every layer is trained, where the program cuts the graph at the first one's.
    """

    two_losses: ClassVar[bool] = True

    suppression: NotNegative = 1.0
    """Weight of the vulnerability in the weights' loss; the paper's λ."""
    clean: Share = 1 / 3
    """Share of the cross-entropy, in [0, 1), that the images have as they are."""
    steps: Count = 10
    """Gradient steps per batch; each costs a pass forward and back."""
    alpha: Step | None = None
    """Step in pixels of [0, 1]; unset means eps / 4."""

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_step(self.alpha)
        check_share(self.clean)
        if not (isfinite(self.suppression) and self.suppression >= 0):
            raise ValueError(f"suppression must be 0 or more, not {self.suppression}")

    def __call__(
        self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise
    ) -> Mapping[str, Tensor]:
        """Return both losses, both accuracies, and the ``vulnerability``."""
        with evaluating(net):
            attacked = self._attacked(net, images, labels, threat, noise)
        with latent(net) as maps:
            scores, on_clean = both(net, attacked, images)
        under_attack, natural = (nn.functional.cross_entropy(s, labels) for s in (scores, on_clean))
        moved = vulnerability(maps)
        return {
            "loss": (1 - self.clean) * under_attack + self.clean * natural + self.suppression * moved,
            MASK_LOSS: under_attack,
            "vulnerability": moved.detach(),
            "accuracy": accuracy(scores, labels),
            "clean_accuracy": accuracy(on_clean, labels),
            ADVERSARIAL: attacked,
        }

    def _attacked(self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise) -> Tensor:
        room = ball(images, threat.eps)
        moved = inside(images + spread(noise.uniform(0, tuple(images.shape[1:])), threat.eps), room)
        alpha = threat.eps / 4 if self.alpha is None else self.alpha
        for _ in range(self.steps):
            moved = step_up(
                lambda at: nn.functional.cross_entropy(net(at).float(), labels), moved, alpha, room, "ANP-VS"
            )
        return moved


plugin = AnpVs
