"""FAB: steps to the nearest place where the net would change its mind if it were linear (Croce and Hein, ICML 2020).

Towards one class at a time, as in the ensemble of Croce and Hein. Each step projects the iterate, and the image itself,
onto the linear boundary inside the pixels' range, and goes to a point between the two. An iterate that is taken for
another class is drawn back towards the image, so that the perturbation gets small where others make the loss large.

The threat asks only for one image inside the ball, so an image is done as soon as one is misclassified. Two are tried
of each iterate: itself, rounded to whole grey levels, where it lies in the ball, and where the line to it meets the
ball.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustdeploy.attacks.ball import Ball, at_the_border, ball
from robustdeploy.attacks.distance.protocol import per_image
from robustdeploy.attacks.losses import likeliest, margin_loss, targeted_margin
from robustdeploy.attacks.protocol import input_gradient
from robustdeploy.core.bounds import Count
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.types import Threat

_BEYOND = 1.05
"""How far a projection is overshot."""
_BACK = 0.9
"""Share of its perturbation that a misclassified iterate keeps."""
_NEARER = 0.95
"""Share of the boundary's distance, when the border was last looked at, below which it is again: a look is a pass."""
_MOST = 0.1
"""Largest weight of the image's own projection."""


@dataclass(frozen=True)
class Fab:
    """The fast adaptive boundary attack, towards each of the likeliest classes."""

    steps: Count = 100
    """Gradient steps per start."""
    restarts: Count = 1
    """Starts per class: the image itself, then random points of the box."""
    targets: Count = 9
    """Classes to be taken for, the likeliest first."""

    loss: ClassVar = "margin"
    """What it follows to zero."""
    NORMS: ClassVar = ("linf", "l2", "l1")

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
            room = ball(at, threat)
            start = room.anywhere(noise.select(standing), number) if restart else at
            found = _approached(net, start, of, targets[standing, rank], room, threat.norm, self.steps)
            with torch.no_grad():
                margin = margin_loss(net(found), of)
            better = margin > widest[standing]
            best[standing[better]], widest[standing[better]] = found[better], margin[better]
            fooled = margin > 0
            standing = standing[~fooled]
        return best


def _approached(
    net: nn.Module,
    start: Tensor,
    labels: Tensor,
    targets: Tensor,
    room: Ball,
    norm: str,
    steps: int,
) -> Tensor:
    """Approach the targets from one start; return the last image tried inside the ball, whole grey levels, for each."""
    images = room.images
    found, current = room.whole(start), start.clone()
    active = torch.arange(len(images), device=images.device)
    seen = torch.full((len(images),), torch.inf, dtype=images.dtype, device=images.device)
    for _ in range(steps):
        own, of = images[active], labels[active]
        its = room.select(active)
        moved = _towards(net, its, current[active], of, targets[active], norm)
        size = its.lengths(moved - own)
        within = its.holds(moved)
        with torch.no_grad():
            beyond = ~CLASSIFICATION.right(net(moved), of)
            # The border is worth a look where the boundary came nearer, or has not been reached in the ball.
            looked = torch.where(beyond, size < _NEARER * seen[active], within)
            tried = its.whole(at_the_border(its, moved))
            fell = torch.zeros_like(looked)
            fell[looked] = ~CLASSIFICATION.right(net(tried[looked]), of[looked])
            # At the border the net may have changed its mind again.
            inside = within & beyond & ~fell
            if bool(inside.any()):
                rounded = its.select(inside.nonzero().squeeze(1)).whole(moved[inside])
                still = ~CLASSIFICATION.right(net(rounded), of[inside])
                index = inside.nonzero().squeeze(1)[still]
                tried[index], fell[index] = rounded[still], True
        found[active] = tried
        seen[active] = torch.where(beyond & looked, size, seen[active])
        wide = per_image(beyond, images)
        current[active] = torch.where(wide, own + _BACK * (moved - own), moved)
        active = active[~fell]
        if not len(active):
            break
    return found


def _towards(net: nn.Module, room: Ball, current: Tensor, labels: Tensor, targets: Tensor, norm: str) -> Tensor:
    """Return the next iterate: a point between the projections of the iterate and of the image."""
    images = room.images
    gradient, scores = input_gradient(net, current, labels, lambda s, y: targeted_margin(s, y, targets))
    lead = -targeted_margin(scores, labels, targets).to(current.dtype)
    # What the same linear net would have at the image itself.
    lead_there = lead - (gradient * (images - current)).flatten(1).sum(1)
    step = projection(current, gradient, lead, norm)
    step_there = projection(images, gradient, lead_there, norm)
    size, size_there = (room.lengths(each) for each in (step, step_there))
    weight = (size / (size + size_there).clamp_min(1e-12)).clamp_max(_MOST)
    weight = per_image(weight, images)
    return ((1 - weight) * (current + _BEYOND * step) + weight * (images + _BEYOND * step_there)).clamp(0, 1)


def projection(images: Tensor, slope: Tensor, lead: Tensor, norm: str = "linf") -> Tensor:
    """Return the smallest step in ``norm`` that raises ``slope · step`` by ``lead``, with all pixels kept in [0, 1].

    Images and slopes are N×C×H×W, leads N; below zero a lead is to be lowered. Where even all of [0, 1] is not enough,
    it is the step that comes nearest.
    """
    sign = per_image(torch.where(lead >= 0, 1.0, -1.0).to(images.dtype), images)
    up = slope * sign
    way = up.sign().flatten(1)
    size, wanted = up.abs().flatten(1), lead.abs()
    flat = images.flatten(1)
    room = torch.where(way > 0, 1 - flat, torch.where(way < 0, flat, torch.zeros_like(flat)))
    if norm == "l1":
        return (way * _one_by_one(size, room, wanted)).view_as(images)
    # In ℓ∞ all pixels go equally far, in ℓ2 as far as each of them brings.
    pace = torch.ones_like(size) if norm == "linf" else size
    # With radius r a pixel brings size · min(r · pace, room). The sum rises ever slower, so Newton's steps from zero
    # never pass the answer; they end when no pixel runs out of room any more. Sorting all pixels takes far longer.
    radius, free = torch.zeros_like(wanted), room > 0
    while True:
        gained = (size * torch.minimum(room, radius[:, None] * pace)).sum(1)
        steepness = (size * pace * free).sum(1)
        step_on = (wanted - gained).clamp_min(0) / steepness.clamp_min(torch.finfo(size.dtype).tiny)
        radius = torch.where(steepness > 0, radius + step_on, radius)
        before, free = free, room > radius[:, None] * pace
        if torch.equal(before, free):
            break
    step = way * torch.minimum(radius[:, None] * pace, room)
    return step.view_as(images)


def _one_by_one(size: Tensor, room: Tensor, wanted: Tensor) -> Tensor:
    """Return moves that bring ``wanted`` in all, those of the largest size first, each as far as it has room."""
    ordered, order = torch.where(room > 0, size, 0).sort(1, descending=True)
    rooms = room.gather(1, order)
    brings = ordered * rooms
    lacking = (wanted[:, None] - (brings.cumsum(1) - brings)).clamp_min(0)
    moves = torch.minimum(lacking / ordered.clamp_min(torch.finfo(size.dtype).tiny), rooms)
    return torch.zeros_like(size).scatter(1, order, torch.where(ordered > 0, moves, 0))


plugin = Fab
