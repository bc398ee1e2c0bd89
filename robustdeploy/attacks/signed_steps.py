"""Signed steps of one size along a direction, projected into the box after each; PGD, BIM, MIM and DIM take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from robustdeploy.attacks.losses import Loss, cross_entropy
from robustdeploy.attacks.protocol import input_gradient, to_grey_levels
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.types import Threat


class Direction(Protocol):
    """Where the next step leads; only the signs of it are followed."""

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
    room: tuple[Tensor, Tensor],
    threat: Threat,
    steps: int,
    alpha: float | None,
    direction: Direction,
) -> tuple[Tensor, Tensor, Tensor]:
    """Climb from ``start``, in whole grey levels; return the best iterate, its loss, and whether it is misclassified.

    An image that is misclassified rests where it is. Of all others the iterate of the highest loss is kept. ``room``
    is the lowest and the highest value of each pixel, ``alpha`` the step in pixels of [0, 1]; None means eps / 4.
    """
    low, high = room
    # Iterates are rounded to grey levels, and a smaller step would be rounded back to where it began.
    alpha = max(threat.levels / 255 / 4 if alpha is None else alpha, 1 / 255)
    current, best = start, start.clone()
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
        stepped = to_grey_levels(current[active] + alpha * along.sign())
        current[active] = torch.minimum(torch.maximum(stepped, low[active]), high[active])
    return best, best_loss, fooled
