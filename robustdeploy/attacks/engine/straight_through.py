"""Straight-through PGD: the engine on the board is the forward pass, and its twin in torch gives the gradient.

The steps are those of PGD (Madry et al., ICLR 2018). The engine's scores decide which iterate is kept and when an image
has fallen, so nothing that a toolchain rounds away is taken for a success. As in the straight-through estimator (Bengio
et al. 2013), what cannot be differentiated is passed by: the twin's Jacobian stands for the engine's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustdeploy.attacks.ball import Ball, ball
from robustdeploy.attacks.engine.protocol import AskScores, alike
from robustdeploy.attacks.losses import LOSSES, Loss, suffix
from robustdeploy.attacks.signed_steps import climbed, restarted
from robustdeploy.core.bounds import Count, LossName, Step
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat


@dataclass(frozen=True)
class StraightThrough:
    """Signed steps along the twin's gradient, each from where the engine was asked."""

    steps: Count = 20
    """Gradient steps per restart; each asks the engine once, and once more at the end."""
    restarts: Count = 1
    """Random starts; later ones attack only the images that still stand on the board."""
    alpha: Step | None = None
    """Step in pixels of [0, 1]; unset means eps / 4, which is 2/255 at eps 8/255."""
    loss: LossName = "cross-entropy"
    """What the steps climb; its derivative by the scores is taken at the engine's, where these are the twin's."""

    KIND: ClassVar[str] = "straight-through"
    NORMS: ClassVar = ("linf", "l2", "l1")

    @property
    def label(self) -> str:
        """``straight-through-20``; ``straight-through-20-5-margin`` for 5 starts that climb the margin."""
        restarts = f"-{self.restarts}" if self.restarts > 1 else ""
        return f"straight-through-{self.steps}{restarts}{suffix(self.loss)}"

    def __call__(
        self, twin: nn.Module, ask: AskScores, images: Tensor, labels: Tensor, threat: Threat, noise: Noise
    ) -> Tensor:
        """Return the strongest image found for each input, by the engine's scores."""

        def climb(standing: Tensor, start: Tensor, room: Ball) -> tuple[Tensor, Tensor, Tensor]:
            def judge(asked: Tensor, active: Tensor) -> Tensor:
                return ask(asked, standing[active])

            through = _Through(judge, LOSSES[self.loss])
            return climbed(twin, start, labels[standing], room, self.steps, self.alpha, through, judge)

        return restarted(ball(images, threat), labels, noise, self.restarts, climb)


@dataclass(frozen=True)
class _Through:
    """The loss's derivative at the engine's scores, led back through the twin's Jacobian."""

    ask: AskScores
    loss: Loss

    def __call__(
        self, net: nn.Module, images: Tensor, labels: Tensor, active: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        """Return the gradient by the pixels, and the engine's scores."""
        scores = self.ask(images, active)
        leaf = images.detach().requires_grad_()
        with torch.enable_grad():
            own = net(leaf)
            told = own.detach()
            # Hard or rescaled scores are no point of the twin's loss; its own slope is better than one taken there.
            at = torch.where(alike(scores, told)[:, None], scores, told).requires_grad_()
            (outer,) = torch.autograd.grad(self.loss(at, labels).sum(), at)
            if not own.requires_grad:
                return torch.zeros_like(leaf), scores
            (found,) = torch.autograd.grad(own, leaf, outer.to(own.dtype), allow_unused=True)
        return torch.zeros_like(leaf) if found is None else found.detach(), scores


plugin = StraightThrough
