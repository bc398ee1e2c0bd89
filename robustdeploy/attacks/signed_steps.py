"""Steps of one size along a direction, projected into the ball after each; PGD, BIM, MIM and DIM take them.

In ℓ∞ only the signs of a direction are followed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from robustdeploy.attacks.ball import Ball
from robustdeploy.attacks.losses import Loss, cross_entropy
from robustdeploy.attacks.protocol import input_gradient
from robustdeploy.onboard.criterion import CLASSIFICATION


class Direction(Protocol):
    """Where the next step leads."""

    @property
    def loss(self) -> Loss:
        """What is climbed, and by what the best iterate is chosen."""
        ...

    def __call__(
        self, net: nn.Module, images: Tensor, labels: Tensor, active: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        """Return a direction for each of ``images``, which stand at ``active`` in the batch, and their scores."""
        ...


@dataclass(frozen=True)
class Slope:
    """The gradient of the loss, as it is."""

    loss: Loss = cross_entropy
    passes: int = 1
    """Passes that it is the mean over: more than one for a net that answers by chance."""

    def __call__(
        self, net: nn.Module, images: Tensor, labels: Tensor, active: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        """Return the gradient and the scores that it was taken at."""
        gradient, scores = input_gradient(net, images, labels, self.loss)
        # Expectation over transformation (Athalye et al., ICML 2018): the mean is what chance leaves of a gradient.
        for _ in range(self.passes - 1):
            gradient += input_gradient(net, images, labels, self.loss)[0]
        return gradient / self.passes, scores


def climbed(
    net: nn.Module,
    start: Tensor,
    labels: Tensor,
    room: Ball,
    steps: int,
    alpha: float | None,
    direction: Direction,
) -> tuple[Tensor, Tensor, Tensor]:
    """Climb from ``start``; return the best iterate, its loss, and whether it is misclassified.

    Every iterate is judged in whole grey levels. One that is misclassified rests where it is. Of all others the iterate
    of the highest loss is kept. ``alpha`` is the step in pixels of [0, 1], in the norm of ``room``; None means eps / 4.
    """
    alpha = room.step(alpha)
    points, current = start.clone(), room.whole(start)
    best = current.clone()
    best_loss = torch.full((len(start),), -torch.inf, device=start.device)
    fooled = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    active = torch.arange(len(start), device=start.device)
    # One pass more than steps: the last iterate is judged as well, and needs no gradient.
    for step in range(steps + 1):
        last = step == steps
        along, scores = (
            (None, net(current[active]).detach())
            if last
            else direction(net, current[active], labels[active], active, step)
        )
        wrong = ~CLASSIFICATION.right(scores, labels[active])
        loss = direction.loss(scores, labels[active])
        better = wrong | (loss > best_loss[active])
        best[active[better]] = current[active[better]]
        best_loss[active[better]] = loss[better]
        fooled[active[wrong]] = True
        if along is None or bool(wrong.all()):
            break
        # A further step might take a misclassified image back.
        active, along = active[~wrong], along[~wrong]
        its = room.select(active)
        points[active] = its.kept(points[active] + alpha * its.steepest(along, points[active]))
        current[active] = its.whole(points[active])
    return best, best_loss, fooled
