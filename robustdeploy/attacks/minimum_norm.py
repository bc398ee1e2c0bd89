"""The steps of FMN: a ball that shrinks while its image is wrong, and grows while it is right.

Pintor, Roli, Brendel and Biggio, "Fast minimum-norm adversarial attacks through adaptive norm constraints" (NeurIPS
2021). Written from the paper. Until an image was wrong once, its ball is as wide as the gradient foretells that the
boundary is far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from robustdeploy.attacks.ball import lengths, shortened
from robustdeploy.attacks.distance.protocol import l2_norms, per_image
from robustdeploy.attacks.losses import margin_loss
from robustdeploy.attacks.protocol import input_gradient
from robustdeploy.onboard.criterion import CLASSIFICATION

_DUAL: Mapping[str, str] = {"linf": "l1", "l2": "l2", "l1": "linf"}
"""In which norm a gradient tells how far away a boundary is."""
_STEP = 1.0, 1e-3
"""Lengths in ℓ2 of the first and the last step, in pixels of [0, 1]; half a cosine leads from one to the other."""
_CHANGE = 0.05, 1e-4
"""Shares by which the ball's radius changes in the first and the last step, in the same way."""

Settled = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Is told at each step which images are at work, where they are and which of these are wrong; says which are done."""


def approached(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    norm: str,
    steps: int,
    *,
    box: bool = True,
    settled: Settled | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the nearest wrong point that was met of each image, and how far it is in ``norm``: infinitely, if none.

    Where none was met the point is that of the last step. ``box`` keeps pixels in [0, 1].
    """
    best, moves = images.clone(), torch.zeros_like(images)
    nearest = images.new_full((len(images),), torch.inf)
    radii, active = nearest.clone(), torch.arange(len(images), device=images.device)
    for step in range(steps):
        own, of, now = images[active], labels[active], moves[active]
        gradient, scores = input_gradient(net, own + now, of, margin_loss)
        wrong = ~CLASSIFICATION.right(scores, of)
        far = lengths(now, norm)
        better = wrong & (far < nearest[active])
        best[active[better]], nearest[active[better]] = (own + now)[better], far[better]
        done = torch.zeros_like(wrong) if settled is None else settled(active, own + now, wrong)
        radii[active] = _radii(radii[active], nearest[active], wrong, far, gradient, scores, of, norm, step / steps)
        size = per_image(l2_norms(gradient).clamp_min(torch.finfo(gradient.dtype).tiny), gradient)
        stepped = now + _between(*_STEP, step / steps) * gradient / size
        moves[active] = shortened(own, stepped, radii[active], norm, box=box)
        active = active[~done]
        if not len(active):
            break
    never = nearest.isinf()
    best[never] = (images + moves)[never]
    return best, nearest


def _radii(
    before: Tensor,
    nearest: Tensor,
    wrong: Tensor,
    far: Tensor,
    gradient: Tensor,
    scores: Tensor,
    labels: Tensor,
    norm: str,
    share: float,
) -> Tensor:
    """Return how wide the balls are from now on."""
    change = _between(*_CHANGE, share)
    slope = lengths(gradient, _DUAL[norm]).clamp_min(torch.finfo(gradient.dtype).tiny)
    foretold = far - margin_loss(scores, labels).to(far.dtype).clamp_max(0) / slope
    wider = torch.where(nearest.isinf(), foretold, before * (1 + change))
    return torch.where(wrong, torch.minimum(before, nearest) * (1 - change), wider)


def _between(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2
