"""Paths: does the loss rise along the steps of an attack, and is a net right on the way to where one step leads?

Both are asked on the host, of the net that gradient attacks follow. What is judged is the net itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from robustdeploy.attacks.ball import ball
from robustdeploy.attacks.losses import margin_loss
from robustdeploy.attacks.protocol import input_gradient
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.types import Threat

STEPS = 5
"""Steps of a quarter of eps along which the loss must rise."""
INNER = (0.25, 0.5, 0.75)
"""Places on the way to the end of FGSM's step, as in Kim, Lee and Lee (AAAI 2021)."""
Bits = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Paths:
    """What was found along them, one entry per image that was looked at."""

    flat: Bits
    """The label's lead shrank at none of the steps, though the image still stood where they began."""
    inner: Bits
    """Right at the end of FGSM's step and wrong before it."""

    @classmethod
    def sound(cls, n: int) -> Paths:
        """Return those of ``n`` images of which nothing was found."""
        return cls(np.zeros(n, np.bool_), np.zeros(n, np.bool_))


@torch.no_grad()
def paths(net: nn.Module, followed: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise) -> Paths:
    """Look along both of each image (N×C×H×W in [0, 1], whole grey levels); gradients are those of ``followed``."""
    flat = _flat(net, followed, images, labels, threat, noise)
    return Paths(flat.cpu().numpy(), _inner(net, followed, images, labels, threat).cpu().numpy())


def _flat(net: nn.Module, followed: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise) -> Tensor:
    room = ball(images, threat)
    # From a random place, as PGD begins: at the images themselves a net could be prepared to look well.
    now = room.kept(room.anywhere(noise, 0))
    step = room.step(None)
    scores = net(now)
    stood: Tensor = CLASSIFICATION.right(scores, labels)
    # The margin and not the loss that is climbed: in float32 that is 0 at a confident image, and stays it.
    first = margin_loss(scores, labels)
    risen = torch.zeros_like(stood)
    for _ in range(STEPS):
        gradient, _scores = input_gradient(followed, now, labels)
        now = room.kept(now + step * room.steepest(gradient, now))
        # Written so that NaN counts as not risen.
        risen |= margin_loss(net(now), labels) > first
    return stood & ~risen


def _inner(net: nn.Module, followed: nn.Module, images: Tensor, labels: Tensor, threat: Threat) -> Tensor:
    room = ball(images, threat)
    gradient, _scores = input_gradient(followed, images, labels)
    way = room.furthest(gradient) - images

    def right(fraction: float) -> Tensor:
        found: Tensor = CLASSIFICATION.right(net(room.whole(images + fraction * way)), labels)
        return found

    inside = torch.stack([right(fraction) for fraction in INNER]).all(0)
    # Of images that are right as they are: a wrong one would only say that the net errs.
    return right(0.0) & right(1.0) & ~inside
