"""DeepFool: steps to the nearest boundary of the net as its gradients foretell it (Moosavi-Dezfooli et al., CVPR 2016).

The mean ℓ2 norm of what it finds is the r2 of Guo et al. (NeurIPS 2018), who leave pixels free to go beyond black and
white. In the box each step is the shortest one that the box allows, so on a linear net it is exact either way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustdeploy.attacks.distance.protocol import (
    back_to_the_boundary,
    is_wrong,
    linearised,
    on_the_way,
    per_image,
)
from robustdeploy.attacks.losses import likeliest
from robustdeploy.core.bounds import Count, NotNegative
from robustdeploy.data.noise import Noise

_PIECES = 64
"""Times that the length of a step in the box is mended; each time another pixel has come to rest at its border."""


@dataclass(frozen=True)
class DeepFool:
    """The nearest boundary in ℓ2, class by class."""

    steps: Count = 50
    """Steps at most; an image that is wrong takes no more."""
    candidates: Count = 10
    """Classes whose boundaries are looked at, the best-scored ones beside the label."""
    overshoot: NotNegative = 0.02
    """Share by which the way found is gone beyond the foretold boundary, so that it is crossed."""
    refine: bool = True
    """Go back to the boundary in the end, so that the overshoot is no part of the distance."""
    box: bool = False
    """Keep pixels in [0, 1]; the paper leaves them free."""
    limit: Count = 1000
    """Test images to use, the first of those that are attacked."""

    metric: ClassVar[str] = "r2_deepfool"
    estimates: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """``deepfool``, or ``deepfool-box`` with pixels in [0, 1]."""
        return "deepfool-box" if self.box else "deepfool"

    def __call__(self, net: nn.Module, images: Tensor, labels: Tensor, noise: Noise) -> Tensor:
        """Return the nearest wrong image found for each; the image itself where none was."""
        targets, crossed = self._targets(net, images, labels)
        found, on = images.clone(), crossed.nonzero().squeeze(1)
        if not len(on):
            return found
        farthest = 1 + self.overshoot
        if self.refine:
            found[on] = back_to_the_boundary(net, images[on], labels[on], targets[on], farthest, box=self.box)
        else:
            found[on] = on_the_way(images[on], targets[on] - images[on], farthest, box=self.box)
        return found

    def _targets(self, net: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the steps lead, not yet cut to the box, and for which images a boundary was crossed there."""
        with torch.no_grad():
            others = likeliest(net(images), labels, self.candidates)
        current, targets = images.clone(), images.clone()
        crossed = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        active = torch.arange(len(images), device=images.device)
        for _ in range(self.steps):
            leads, slopes = linearised(net, current[active], labels[active], others[active])
            moves, leads_anywhere = self._nearest(current[active], leads, slopes)
            # Nothing grows there, so no step is foretold: such an image stays where it is and counts as not found.
            active, moves = active[leads_anywhere], moves[leads_anywhere]
            if not len(active):
                break
            targets[active] = current[active] + moves
            current[active] = on_the_way(current[active], moves, 1.0, box=self.box)
            tried = on_the_way(images[active], targets[active] - images[active], 1 + self.overshoot, box=self.box)
            wrong = is_wrong(net, tried, labels[active])
            crossed[active[wrong]] = True
            active = active[~wrong]
            if not len(active):
                break
        return targets, crossed

    def _nearest(self, images: Tensor, leads: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the move to the nearest of the foretold boundaries, and whether there is one."""
        # Where two classes are level already a step of nothing would not cross; a float's rounding is enough of one.
        leads = leads.clamp_min(0) + 1e-6 * leads.abs().amax(1, keepdim=True)
        if self.box:
            lengths, distances = _lengths_in_the_box(images, leads, slopes)
        else:
            squares = slopes.square().sum(2)
            lengths = leads / squares
            distances = leads / squares.sqrt()
        distances = distances.nan_to_num(torch.inf, torch.inf)
        best = distances.argmin(1, keepdim=True)
        length = lengths.gather(1, best).squeeze(1)
        slope = slopes.gather(1, best[:, :, None].expand(-1, -1, slopes.shape[2])).squeeze(1).view_as(images)
        exists = distances.gather(1, best).squeeze(1).isfinite() & length.isfinite()
        return -per_image(length.nan_to_num(0, 0), images) * slope, exists


def _lengths_in_the_box(images: Tensor, leads: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far to go against each slope, pixels resting at their border, until a lead is gone, and that in ℓ2.

    What is gained is a concave function of the length, in straight pieces, so that Newton's steps from 0 end at the
    answer. A boundary that the box does not reach is infinitely far; where it reaches none, the nearest one is gone
    to as far as it allows, as it may lie elsewhere than foretold.
    """
    flat = images.flatten(1)[:, None]
    sizes = slopes.abs()
    rooms = torch.where(slopes < 0, 1 - flat, flat)
    lengths = torch.zeros_like(leads)
    for _ in range(_PIECES):
        free = lengths[:, :, None] * sizes < rooms
        resting = (sizes * rooms).masked_fill(free, 0).sum(2)
        squares = sizes.square().masked_fill(~free, 0).sum(2)
        longer = (leads - resting) / squares
        if not bool((longer > lengths * (1 + 1e-6)).any()):
            break
        lengths = torch.maximum(lengths, longer)
    moves = torch.minimum(lengths[:, :, None] * sizes, rooms)
    gained = (moves.nan_to_num(0) * sizes).sum(2)
    reached = lengths.isfinite() & (gained >= leads * (1 - 1e-3))
    distances = torch.where(reached, moves.square().sum(2).sqrt(), torch.inf)
    lost = ~reached.any(1)
    if bool(lost.any()):
        whole = (sizes * rooms).sum(2)
        # One over the smallest slope that counts takes every pixel to its border.
        far = torch.where(sizes > 0, rooms / sizes.clamp_min(1e-12), 0).amax(2)
        ratio = torch.where(whole > 0, leads / whole, torch.inf)
        lengths = torch.where(lost[:, None], far, lengths)
        distances = torch.where(lost[:, None], ratio, distances)
    return lengths, distances


plugin = DeepFool
