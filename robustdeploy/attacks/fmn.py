"""FMN: the fast minimum-norm attack (Pintor et al., NeurIPS 2021), done where its image falls inside the ball.

What it finds lies on the boundary, and rounding would take it back. So the way to each wrong iterate is gone on to the
border of the ball, and tried there in whole grey levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustdeploy.attacks.ball import Ball, at_the_border, ball
from robustdeploy.attacks.minimum_norm import approached
from robustdeploy.core.bounds import Count
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.types import Threat


@dataclass(frozen=True)
class Fmn:
    """Steps in a ball that shrinks and grows, from the image itself, so that nothing about it is random."""

    steps: Count = 100
    """Gradient steps; each that meets a wrong image scores one more."""

    loss: ClassVar = "margin"
    """What it follows to zero."""
    NORMS: ClassVar = ("linf", "l2", "l1")

    @property
    def label(self) -> str:
        """``fmn-100``."""
        return f"fmn-{self.steps}"

    def __call__(self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise) -> Tensor:
        """Return a misclassified image where one was found, and else the nearest to it on the ball's border."""
        room, found = ball(images, threat), images.clone()
        fell = torch.zeros(len(images), dtype=torch.bool, device=images.device)

        def settled(active: Tensor, points: Tensor, wrong: Tensor) -> Tensor:
            fell[active[wrong]] |= self._tried(net, points[wrong], labels[active[wrong]], active[wrong], room, found)
            return fell[active]

        last, _ = approached(net, images, labels, threat.norm, self.steps, settled=settled)
        left = (~fell).nonzero().squeeze(1)
        if len(left):
            its = room.select(left)
            found[left] = its.whole(at_the_border(its, last[left]))
        return found

    def _tried(self, net: nn.Module, points: Tensor, labels: Tensor, at: Tensor, room: Ball, found: Tensor) -> Tensor:
        """Put those into ``found`` that are still wrong on the border; return which these are."""
        its = room.select(at)
        tried = its.whole(at_the_border(its, points))
        with torch.no_grad():
            wrong: Tensor = ~CLASSIFICATION.right(net(tried), labels)
        found[at[wrong]] = tried[wrong]
        return wrong


plugin = Fmn
