"""Patch: a square of each image's own, where and filled as the gradient says; on the place see Rao et al. (2020).

Rao, Stutz and Schiele, "Adversarial training against location-optimized adversarial patches" (ECCV workshops 2020).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustdeploy.attacks.ball import Ball, between
from robustdeploy.attacks.losses import margin_loss
from robustdeploy.attacks.patches.protocol import Size, random_places, squares
from robustdeploy.attacks.protocol import input_gradient
from robustdeploy.attacks.signed_steps import Slope, climbed
from robustdeploy.core.bounds import Count, Step
from robustdeploy.data.noise import Noise
from robustdeploy.errors import UsageError

_FIRST_STEP = 0.25


@dataclass(frozen=True)
class Patch:
    """Tries several places for a few steps, and goes on where that came closest."""

    area: Step = 0.05
    """Share of the image's area."""
    pixels: Count | None = None
    """Pixels a side instead."""
    at: tuple[int, int] | None = None
    """Top row and left column of the square; unset: the attack chooses for each image."""
    candidates: Count = 8
    """Places that are tried: half of them where the gradient promises most, the others anywhere."""
    tries: Count = 5
    """Steps at each of them."""
    followed: Count = 2
    """Places that it goes on at."""
    steps: Count = 40
    """Steps at each of those, the second half of them four times as fine."""
    alpha: Step = 0.1
    """Size of these, in pixels of [0, 1]."""

    def __post_init__(self) -> None:
        if self.at is not None and min(self.at) < 0:
            raise ValueError(f"at is a row and a column from 0 on, not {list(self.at)}")

    @property
    def size(self) -> Size:
        """Of the square."""
        return Size(self.area, self.pixels)

    @property
    def label(self) -> str:
        """``patch-5pct``, with the steps where they are others, and the place where it is given."""
        steps = "" if self.steps == Patch.steps else f"-{self.steps}"
        return f"patch-{self.size}{steps}" + ("" if self.at is None else f"-at-{self.at[0]}-{self.at[1]}")

    @property
    def passes(self) -> int:
        """How often an image goes through the net that stands to the end."""
        places = 1 if self.at else self.candidates
        # A climb judges its last iterate too, and each place that is gone on at is climbed twice.
        tried, followed = places * (self.tries + 1), min(self.followed, places) * (self.steps + 2)
        return (0 if self.at else 1) + tried + followed

    def __call__(
        self, net: nn.Module, images: Tensor, labels: Tensor, side: int, noise: Noise, learnt: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the patched images that came closest to being misclassified, and their places."""
        tried = []
        for number, places in enumerate(self._candidates(net, images, labels, side, noise)):
            room = self._room(images, places, side)
            start = room.whole(room.anywhere(noise, number))
            found, loss, _ = climbed(net, start, labels, room, self.tries, _FIRST_STEP, Slope(margin_loss))
            tried.append((found, loss, places))
        losses = torch.stack([loss for _, loss, _ in tried])
        every = torch.arange(len(images), device=images.device)
        best, best_loss, at = images.clone(), torch.full_like(losses[0], -torch.inf), tried[0][2].clone()
        for rank in losses.argsort(0, descending=True)[: self.followed]:
            found, places = (torch.stack([each[part] for each in tried])[rank, every] for part in (0, 2))
            found, loss = self._followed(net, found, images, labels, places, side)
            better = loss > best_loss
            best[better], best_loss[better], at[better] = found[better], loss[better], places[better]
        return best, at

    def _followed(
        self, net: nn.Module, found: Tensor, images: Tensor, labels: Tensor, places: Tensor, side: int
    ) -> tuple[Tensor, Tensor]:
        room, coarse = self._room(images, places, side), self.steps // 2
        for steps, alpha in ((coarse, self.alpha), (self.steps - coarse, self.alpha / 4)):
            found, loss, _ = climbed(net, found, labels, room, steps, alpha, Slope(margin_loss))
        return found, loss

    @staticmethod
    def _room(images: Tensor, places: Tensor, side: int) -> Ball:
        """Return where pixels may go: to all of [0, 1] in the square, and nowhere outside."""
        inside = squares(places, side, images.shape[2], images.shape[3])
        return between(images, images.masked_fill(inside, 0.0), images.masked_fill(inside, 1.0))

    def _candidates(self, net: nn.Module, images: Tensor, labels: Tensor, side: int, noise: Noise) -> list[Tensor]:
        height, width = images.shape[2:]
        if self.at is not None:
            if self.at[0] + side > height or self.at[1] + side > width:
                raise UsageError(
                    f"evaluate.patches: a square of {side} pixels at row {self.at[0]} and column {self.at[1]} does not "
                    f"fit images of {height}×{width} pixels; say a place that is nearer to the upper left corner"
                )
            return [torch.tensor(self.at, device=images.device).repeat(len(images), 1)]
        gradient, _ = input_gradient(net, images, labels, margin_loss)
        # What the loss would gain, to first order, if each pixel took the better end of its range.
        gain = torch.maximum(-gradient * images, gradient * (1 - images)).sum(1, keepdim=True)
        promised = functional.avg_pool2d(gain, side, stride=1).squeeze(1)
        rows, columns = (torch.arange(length, device=images.device) for length in promised.shape[1:])
        found = []
        for _ in range((self.candidates + 1) // 2):
            best = promised.flatten(1).argmax(1)
            places = torch.stack([best // len(columns), best % len(columns)], 1)
            found.append(places)
            # A place that overlaps by more than half would be tried in vain.
            near = ((rows - places[:, 0, None]).abs() <= side // 2)[:, :, None]
            promised = promised.masked_fill(
                near & ((columns - places[:, 1, None]).abs() <= side // 2)[:, None, :], -torch.inf
            )
        anywhere = range(self.candidates, self.candidates + self.candidates // 2)
        return [*found, *(random_places(noise, step, side, height, width) for step in anywhere)]


plugin = Patch
