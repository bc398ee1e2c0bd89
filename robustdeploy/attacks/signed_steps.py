"""Steps of one size along a direction, projected into the ball after each; PGD, BIM, MIM and DIM take them.

In ℓ∞ only the signs of a direction are followed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from robustdeploy.attacks.ball import Ball
from robustdeploy.attacks.losses import Loss, cross_entropy
from robustdeploy.attacks.protocol import input_gradient
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.criterion import CLASSIFICATION

Climb = Callable[[Tensor, Tensor, Ball], tuple[Tensor, Tensor, Tensor]]
"""Climbs with the images at these places, from these starts in this ball; returns what `climbed` does."""


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
    judge: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Climb from ``start``; return the best iterate, its loss, and whether it is misclassified.

    Every iterate is judged in whole grey levels. One that is misclassified rests where it is. Of all others the iterate
    of the highest loss is kept. ``alpha`` is the step in pixels of [0, 1], in the norm of ``room``; None means eps / 4.
    ``judge`` scores the last iterates, with their places in the batch; left out, ``net`` does.
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
            (None, net(current[active]).detach() if judge is None else judge(current[active], active))
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


def restarted(whole: Ball, labels: Tensor, noise: Noise, restarts: int, climb: Climb) -> Tensor:
    """Climb from ``restarts`` random points of a ball; later ones are for the images that still stand.

    Returns the strongest image found for each input.
    """
    images = whole.images
    best = images.clone()
    best_loss = torch.full((len(images),), -torch.inf, device=images.device)
    standing = torch.arange(len(images), device=images.device)
    for restart in range(restarts):
        if not len(standing):
            break
        room = whole.select(standing)
        start = room.kept(room.anywhere(noise.select(standing), restart))
        found, loss, fooled = climb(standing, start, room)
        # Fooled goes before any loss: under cross-entropy an image may be wrong at a lower loss than another
        # restart had.
        better = fooled | (loss > best_loss[standing])
        best[standing[better]] = found[better]
        best_loss[standing[better]] = loss[better]
        # Only those that stand go on, so that restarts cost little where most images have fallen.
        standing = standing[~fooled]
    return best
