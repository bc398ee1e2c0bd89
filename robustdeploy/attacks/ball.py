"""Balls in torch: where an attack may go in each norm, which way is steepest there, and what can be stored of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor

from robustdeploy.attacks.distance.protocol import l2_norms, per_image
from robustdeploy.attacks.protocol import box, to_grey_levels
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.ball import rounded
from robustdeploy.onboard.types import Threat

_SHARE = 0.01
"""Share of the pixels that a step in ℓ1 moves, those of the largest gradients (Tramèr and Boneh, NeurIPS 2019)."""

_HALVINGS = 30


class Ball(Protocol):
    """What a threat allows around a batch of images, N×C×H×W in [0, 1] and whole grey levels."""

    @property
    def images(self) -> Tensor:
        """Its centres."""
        ...

    @property
    def radius(self) -> float:
        """In pixels of [0, 1], as far as whole grey levels reach."""
        ...

    def select(self, index: Tensor) -> Ball:
        """Return the ball of the images at ``index``."""
        ...

    def anywhere(self, noise: Noise, step: int) -> Tensor:
        """Return a random point for each image, drawn as ``step`` of ``noise``."""
        ...

    def steepest(self, gradient: Tensor, points: Tensor, share: Tensor | None = None) -> Tensor:
        """Return the direction of length 1 along which ``gradient`` rises most, from ``points``.

        In ℓ1 that is the ``share`` of pixels with the largest gradients, one number per image.
        """
        ...

    def furthest(self, gradient: Tensor) -> Tensor:
        """Return where a loss of that slope everywhere would be highest, not rounded."""
        ...

    def inside(self, points: Tensor) -> Tensor:
        """Return the points pulled into the ball and into [0, 1], not rounded."""
        ...

    def whole(self, points: Tensor) -> Tensor:
        """Return whole grey levels in the ball, as they can be stored; what are such stay as they are."""
        ...

    def reach(self) -> Tensor:
        """Return how far away the furthest point of the ball in [0, 1] is from each image."""
        ...

    def holds(self, points: Tensor) -> Tensor:
        """Return one bit per image: the point lies in the ball."""
        ...

    def step(self, alpha: float | None) -> float:
        """Return the length of a step, in pixels of [0, 1]; of None a quarter of the radius."""
        ...

    def kept(self, points: Tensor) -> Tensor:
        """Return what the next step goes on from, inside; in ℓ∞ whole grey levels, elsewhere steps are finer."""
        ...

    def lengths(self, moves: Tensor) -> Tensor:
        """Return how long each image's move is, in pixels of [0, 1]."""
        ...


@dataclass(frozen=True)
class _Box:
    """ℓ∞: each pixel has a lowest and a highest value of its own, in whole grey levels."""

    images: Tensor
    radius: float
    low: Tensor
    high: Tensor

    def select(self, index: Tensor) -> Ball:
        return _Box(self.images[index], self.radius, self.low[index], self.high[index])

    def anywhere(self, noise: Noise, step: int) -> Tensor:
        # Uniform in the box and not in the ball: near black or white, cutting would heap starts up at the border.
        drawn = noise.uniform(step, tuple(self.low.shape[1:])).to(self.low.dtype)
        return self.low + (self.high - self.low) * drawn

    def steepest(self, gradient: Tensor, points: Tensor, share: Tensor | None = None) -> Tensor:
        return gradient.sign()

    def furthest(self, gradient: Tensor) -> Tensor:
        return self.images + self.radius * gradient.sign()

    def inside(self, points: Tensor) -> Tensor:
        return points.clamp(self.low, self.high)

    def whole(self, points: Tensor) -> Tensor:
        return to_grey_levels(points).clamp(self.low, self.high)

    def reach(self) -> Tensor:
        return torch.maximum(self.high - self.images, self.images - self.low).flatten(1).amax(1)

    def holds(self, points: Tensor) -> Tensor:
        return ((points >= self.low) & (points <= self.high)).flatten(1).all(1)

    def step(self, alpha: float | None) -> float:
        # What is kept is rounded to grey levels, and a smaller step would be rounded back to where it began.
        return max(self.radius / 4 if alpha is None else alpha, 1 / 255)

    def kept(self, points: Tensor) -> Tensor:
        return self.whole(points)

    def lengths(self, moves: Tensor) -> Tensor:
        return lengths(moves, "linf")


@dataclass(frozen=True)
class _Length:
    """What balls of a length over all pixels share; ``NORM`` says which length."""

    images: Tensor
    threat: Threat

    NORM: ClassVar[str]

    @property
    def radius(self) -> float:
        return self.threat.length / 255

    def select(self, index: Tensor) -> Self:
        return type(self)(self.images[index], self.threat)

    def inside(self, points: Tensor) -> Tensor:
        return self.images + shortened(self.images, points - self.images, self.reach(), self.NORM)

    def whole(self, points: Tensor) -> Tensor:
        return _stored(self.images, points, self.threat)

    def reach(self) -> Tensor:
        return self.images.new_full((len(self.images),), self.radius)

    def holds(self, points: Tensor) -> Tensor:
        return self.lengths(points - self.images) <= self.radius

    def step(self, alpha: float | None) -> float:
        return self.radius / 4 if alpha is None else alpha

    def kept(self, points: Tensor) -> Tensor:
        return self.inside(points)

    def lengths(self, moves: Tensor) -> Tensor:
        return lengths(moves, self.NORM)


@dataclass(frozen=True)
class _L2(_Length):
    """ℓ2: all pixels together have one length."""

    NORM: ClassVar[str] = "l2"

    def anywhere(self, noise: Noise, step: int) -> Tensor:
        # Box and Muller: a radius and an angle make a normal number, and normal numbers have no direction of their own.
        drawn = noise.uniform(step, (2, *self.images.shape[1:])).to(self.images.dtype)
        normal = (-2 * torch.log1p(-drawn[:, 0])).sqrt() * torch.cos(2 * math.pi * drawn[:, 1])
        return (self.images + self.radius * self._unit(normal)).clamp(0, 1)

    def steepest(self, gradient: Tensor, points: Tensor, share: Tensor | None = None) -> Tensor:
        return self._unit(free(gradient, points))

    def furthest(self, gradient: Tensor) -> Tensor:
        return self.images + self.radius * self.steepest(gradient, self.images)

    def _unit(self, moves: Tensor) -> Tensor:
        # By the largest first: a sure net's gradient is so small that its squares would be 0.
        largest = moves.abs().flatten(1).amax(1).clamp_min(torch.finfo(moves.dtype).tiny)
        scaled = moves / per_image(largest, moves)
        return scaled / per_image(self.lengths(scaled).clamp_min(torch.finfo(moves.dtype).tiny), moves)


@dataclass(frozen=True)
class _L1(_Length):
    """ℓ1: all changes together have one sum, so that few pixels with large gradients are worth the most."""

    NORM: ClassVar[str] = "l1"

    def anywhere(self, noise: Noise, step: int) -> Tensor:
        drawn = noise.uniform(step, (2, *self.images.shape[1:])).to(self.images.dtype)
        moves = -torch.log1p(-drawn[:, 0]) * torch.where(drawn[:, 1] < 0.5, 1.0, -1.0)
        return (self.images + self.radius * moves / per_image(self.lengths(moves), moves)).clamp(0, 1)

    def steepest(self, gradient: Tensor, points: Tensor, share: Tensor | None = None) -> Tensor:
        ways = free(gradient, points)
        sizes = ways.abs().flatten(1)
        share = sizes.new_full((len(sizes),), _SHARE) if share is None else share
        counts = (share * sizes.shape[1]).long().clamp(1, sizes.shape[1])
        least = sizes.topk(int(counts.max()), dim=1).values.gather(1, counts[:, None] - 1)
        signs = torch.where(sizes >= least, ways.flatten(1).sign(), torch.zeros_like(sizes))
        return (signs / signs.abs().sum(1, keepdim=True).clamp_min(1)).view_as(gradient)

    def furthest(self, gradient: Tensor) -> Tensor:
        # One pixel after the other goes to black or white, those of the largest gradients first.
        sizes, order = free(gradient, self.images).abs().flatten(1).sort(1, descending=True)
        ways = gradient.sign().flatten(1).gather(1, order)
        flat = self.images.flatten(1).gather(1, order)
        room = torch.where(sizes == 0, 0, torch.where(ways > 0, 1 - flat, flat))
        moves = ways * torch.minimum((self.radius - (room.cumsum(1) - room)).clamp_min(0), room)
        return self.images + torch.zeros_like(flat).scatter(1, order, moves).view_as(gradient)


def lengths(moves: Tensor, norm: str) -> Tensor:
    """Return how long each image's move is in ``norm``, in pixels of [0, 1]."""
    if norm == "l2":
        return l2_norms(moves)
    sizes = moves.abs().flatten(1)
    return sizes.amax(1) if norm == "linf" else sizes.sum(1)


def shortened(images: Tensor, moves: Tensor, radius: Tensor, norm: str, *, box: bool = True) -> Tensor:
    """Return the moves of ``images`` pulled into balls of ``radius``, one per image, and with ``box`` into [0, 1]."""
    if norm == "l1":
        return _shrunk(images, moves, radius, box=box)
    # Cut first: what lies between two points of [0, 1] lies in it too.
    moves = (images + moves).clamp(0, 1) - images if box else moves
    wide = per_image(radius, moves)
    if norm == "linf":
        return torch.minimum(torch.maximum(moves, -wide), wide)
    return (wide / per_image(l2_norms(moves), moves).clamp_min(torch.finfo(moves.dtype).tiny)).clamp_max(1) * moves


def _shrunk(images: Tensor, moves: Tensor, radius: Tensor, *, box: bool) -> Tensor:
    """Return the nearest moves in ℓ1 balls: all sizes shrink by one number, down to 0.

    Croce and Hein, "Mind the box" (ICML 2021). Cut to [0, 1] before or after that, moves would lose length that others
    could use.
    """
    sizes, wide = moves.abs().flatten(1), radius[:, None]
    room = torch.where(moves > 0, 1 - images, images).flatten(1) if box else torch.full_like(sizes, torch.inf)
    low, high = torch.zeros_like(wide), sizes.amax(1, keepdim=True)
    long = torch.minimum(sizes, room).sum(1, keepdim=True) > wide
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        over = torch.minimum((sizes - middle).clamp_min(0), room).sum(1, keepdim=True) > wide
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    found = torch.minimum((sizes - torch.where(long, high, 0)).clamp_min(0), room)
    return moves.sign() * found.view_as(moves)


def at_the_border(room: Ball, points: Tensor) -> Tensor:
    """Stretch or shorten the way from each image to its point until it is as long as the ball is wide."""
    way = points - room.images
    stretch = room.reach() / room.lengths(way).clamp_min(1e-12)
    return room.inside(room.images + way * per_image(stretch, way))


def free(gradient: Tensor, points: Tensor) -> Tensor:
    """Return ``gradient`` without what would take black pixels below black, or white ones beyond white."""
    stuck = ((points <= 0) & (gradient < 0)) | ((points >= 1) & (gradient > 0))
    return gradient.masked_fill(stuck, 0)


def _stored(images: Tensor, points: Tensor, threat: Threat) -> Tensor:
    """Round on the board's terms: in numpy, where lengths are compared in integers."""
    clean = torch.round(images * 255).to(torch.uint8).cpu().numpy()
    # What an attack makes of a gradient that is not finite is no number, and 8 bits hold none.
    values = (points.detach().double() * 255).nan_to_num().cpu().numpy()
    return torch.from_numpy(rounded(clean, values, threat)).to(images.device, images.dtype) / 255


def between(images: Tensor, low: Tensor, high: Tensor) -> Ball:
    """Return a box with a lowest and a highest value for each pixel, whole grey levels, such as a patch has."""
    return _Box(images, 1.0, low, high)


def _box(images: Tensor, threat: Threat) -> Ball:
    return _Box(images, threat.levels / 255, *box(images, threat))


_BALLS: Mapping[str, Callable[[Tensor, Threat], Ball]] = {"linf": _box, "l2": _L2, "l1": _L1}


def ball(images: Tensor, threat: Threat) -> Ball:
    """Return what ``threat`` allows around ``images``, N×C×H×W in [0, 1] and whole grey levels."""
    return _BALLS[threat.norm](images, threat)
