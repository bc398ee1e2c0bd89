"""FAB: steps to the nearest place where the net would change its mind if it were linear (Croce and Hein, ICML 2020).

Towards one class at a time, as in the ensemble of Croce and Hein. Each step projects the iterate, and the image itself,
onto the linear boundary inside the pixels' range, and goes to a point between the two. An iterate that is taken for
another class is drawn back towards the image, so that the perturbation gets small where others make the loss large.

The threat asks only for one image inside the box, so an image is done as soon as one is misclassified. Two are tried of
each iterate: itself, rounded to whole grey levels, where it lies in the box, and where the line to it meets the box.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustdeploy.attacks.losses import likeliest, margin_loss, targeted_margin
from robustdeploy.attacks.protocol import box, input_gradient, to_grey_levels
from robustdeploy.core.bounds import Count
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.types import Threat

_BEYOND = 1.05
"""How far a projection is overshot."""
_BACK = 0.9
"""Share of its perturbation that a misclassified iterate keeps."""
_MOST = 0.1
"""Largest weight of the image's own projection."""


@dataclass(frozen=True)
class Fab:
    """The fast adaptive boundary attack for ℓ∞, towards each of the likeliest classes."""

    steps: Count = 100
    """Gradient steps per start."""
    restarts: Count = 1
    """Starts per class: the image itself, then random points of the box."""
    targets: Count = 9
    """Classes to be taken for, the likeliest first."""

    loss: ClassVar = "margin"
    """What it follows to zero."""

    @property
    def label(self) -> str:
        """``fab-100-t9``, ``fab-100-5-t9`` for 5 starts."""
        restarts = f"-{self.restarts}" if self.restarts > 1 else ""
        return f"fab-{self.steps}{restarts}-t{self.targets}"

    @property
    def starts(self) -> int:
        """How often it sets out for an image that stands to the end."""
        return self.restarts * self.targets

    def __call__(self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise) -> Tensor:
        """Return a misclassified image where one was found, and else that of the widest margin."""
        if not len(images):
            return images
        best, standing = images.clone(), torch.arange(len(images), device=images.device)
        with torch.no_grad():
            scores = net(images)
            targets, widest = likeliest(scores, labels, self.targets), margin_loss(scores, labels)
        starts = [(rank, restart) for restart in range(self.restarts) for rank in range(targets.shape[1])]
        for number, (rank, restart) in enumerate(starts):
            if not len(standing):
                break
            at, of = images[standing], labels[standing]
            low, high = room = box(at, threat)
            start = at
            if restart:
                drawn = noise.select(standing).uniform(number, tuple(images.shape[1:])).to(images.dtype)
                start = low + (high - low) * drawn
            found = _approached(net, at, start, of, targets[standing, rank], room, self.steps)
            with torch.no_grad():
                margin = margin_loss(net(found), of)
            better = margin > widest[standing]
            best[standing[better]], widest[standing[better]] = found[better], margin[better]
            fooled = margin > 0
            standing = standing[~fooled]
        return best


def _approached(
    net: nn.Module,
    images: Tensor,
    start: Tensor,
    labels: Tensor,
    targets: Tensor,
    room: tuple[Tensor, Tensor],
    steps: int,
) -> Tensor:
    """Approach the targets from one start; return the last image tried inside the box, whole grey levels, for each."""
    found, current = to_grey_levels(start).clamp(*room), start.clone()
    active = torch.arange(len(images), device=images.device)
    nearest = torch.full((len(images),), torch.inf, dtype=images.dtype, device=images.device)
    for _ in range(steps):
        own, of = images[active], labels[active]
        low, high = (side[active] for side in room)
        moved = _towards(net, own, current[active], of, targets[active])
        size = (moved - own).abs().flatten(1).amax(1)
        within = ((moved >= low) & (moved <= high)).flatten(1).all(1)
        with torch.no_grad():
            beyond = ~CLASSIFICATION.right(net(moved), of)
            # The border is worth a look where the boundary came nearer than ever, or has not been reached in the box.
            looked = torch.where(beyond, size < nearest[active], within)
            tried = to_grey_levels(_at_the_border(own, moved, low, high))
            fell = torch.zeros_like(looked)
            fell[looked] = ~CLASSIFICATION.right(net(tried[looked]), of[looked])
            # At the border the net may have changed its mind again.
            inside = within & beyond & ~fell
            if bool(inside.any()):
                rounded = to_grey_levels(moved[inside])
                still = ~CLASSIFICATION.right(net(rounded), of[inside])
                index = inside.nonzero().squeeze(1)[still]
                tried[index], fell[index] = rounded[still], True
        found[active] = tried
        nearest[active] = torch.where(beyond, torch.minimum(size, nearest[active]), nearest[active])
        wide = beyond.view(-1, *[1] * (images.dim() - 1))
        current[active] = torch.where(wide, own + _BACK * (moved - own), moved)
        active = active[~fell]
        if not len(active):
            break
    return found


def _towards(net: nn.Module, images: Tensor, current: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return the next iterate: a point between the projections of the iterate and of the image."""
    gradient, scores = input_gradient(net, current, labels, lambda s, y: targeted_margin(s, y, targets))
    lead = -targeted_margin(scores, labels, targets).to(current.dtype)
    # What the same linear net would have at the image itself.
    lead_there = lead - (gradient * (images - current)).flatten(1).sum(1)
    step, step_there = projection(current, gradient, lead), projection(images, gradient, lead_there)
    size, size_there = (each.abs().flatten(1).amax(1) for each in (step, step_there))
    weight = (size / (size + size_there).clamp_min(1e-12)).clamp_max(_MOST).view(-1, *[1] * (images.dim() - 1))
    return ((1 - weight) * (current + _BEYOND * step) + weight * (images + _BEYOND * step_there)).clamp(0, 1)


def _at_the_border(images: Tensor, moved: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Stretch or shorten the way from each image to ``moved`` until it is as long as the box is wide, and clip it."""
    way = moved - images
    widest = torch.maximum(high - images, images - low).flatten(1).amax(1)
    stretch = widest / way.abs().flatten(1).amax(1).clamp_min(1e-12)
    return (images + way * stretch.view(-1, *[1] * (images.dim() - 1))).clamp(low, high)


def projection(images: Tensor, slope: Tensor, lead: Tensor) -> Tensor:
    """Return the smallest step in ℓ∞ that raises ``slope · step`` by ``lead``, with all pixels kept in [0, 1].

    Images and slopes are N×C×H×W, leads N; below zero a lead is to be lowered. Where even all of [0, 1] is not enough,
    it is the step that comes nearest.
    """
    sign = torch.where(lead >= 0, 1.0, -1.0).to(images.dtype).view(-1, *[1] * (images.dim() - 1))
    up = slope * sign
    way = up.sign().flatten(1)
    size, wanted = up.abs().flatten(1), lead.abs()
    flat = images.flatten(1)
    room = torch.where(way > 0, 1 - flat, torch.where(way < 0, flat, torch.zeros_like(flat)))
    # With radius r a pixel brings size · min(r, room). The sum rises ever slower, so Newton's steps from zero never
    # pass the answer; they end when no pixel runs out of room any more. Sorting all pixels takes far longer.
    radius, free = torch.zeros_like(wanted), room > 0
    while True:
        gained = (size * torch.minimum(room, radius[:, None])).sum(1)
        steepness = (size * free).sum(1)
        step_on = (wanted - gained).clamp_min(0) / steepness.clamp_min(torch.finfo(size.dtype).tiny)
        radius = torch.where(steepness > 0, radius + step_on, radius)
        before, free = free, room > radius[:, None]
        if torch.equal(before, free):
            break
    step = way * torch.minimum(radius[:, None], room)
    return step.view_as(images)


plugin = Fab
