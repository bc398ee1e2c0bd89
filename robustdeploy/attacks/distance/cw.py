"""Carlini and Wagner's ℓ2 attack: the smallest move whose cost in margin is worth it (S&P 2017).

Adam minimises ‖move‖² + c · lead, where the lead is that of the label over the best other class, cut at 0. For each
image the weight ``c`` is searched by halving. In the box pixels are hyperbolic tangents of free variables, as in the
paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustdeploy.attacks.distance.protocol import back_to_the_boundary
from robustdeploy.attacks.losses import margin_loss
from robustdeploy.core.bounds import Count, Positive
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.criterion import CLASSIFICATION

_EDGE = 1 - 1e-6
"""Black and white themselves are infinitely far away as hyperbolic tangents."""
_MOMENTS = (0.9, 0.999)
_SETTLED = 0.02
"""Share of a weight within which it is known well enough, so that its image is left alone."""


@dataclass(frozen=True)
class CarliniWagner:
    """Adam on the move's norm and the label's lead, with a weight of its own for each image."""

    steps: Count = 200
    """Steps of Adam in each search."""
    searches: Count = 9
    """Weights ``c`` that are tried for each image."""
    lr: Positive = 0.1
    """First step of Adam; it shrinks to nothing by half a cosine."""
    first: Positive = 1.0
    """Weight ``c`` of the first search; it grows tenfold until an image is wrong, and then lies between the two."""
    refine: bool = True
    """In the end go straight back to the boundary, where a shorter way is left."""
    box: bool = True
    """Keep pixels in [0, 1], as the paper does."""
    limit: Count = 200
    """Test images to use, the first of those that are attacked."""

    metric: ClassVar[str] = "r2_cw"
    estimates: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """``cw-box``, or ``cw`` with pixels left free."""
        return "cw-box" if self.box else "cw"

    def __call__(self, net: nn.Module, images: Tensor, labels: Tensor, noise: Noise) -> Tensor:
        """Return the nearest wrong image found for each; the image itself where none was."""
        best, nearest = images.clone(), images.new_full((len(images),), torch.inf)
        weight = images.new_full((len(images),), self.first)
        low, high = torch.zeros_like(weight), torch.full_like(weight, torch.inf)
        for _ in range(self.searches):
            open_ = (~(high - low < _SETTLED * high)).nonzero().squeeze(1)
            if not len(open_):
                break
            crossed, found, norms = self._search(net, images[open_], labels[open_], weight[open_])
            better = norms < nearest[open_]
            best[open_[better]], nearest[open_[better]] = found[better], norms[better]
            high[open_] = torch.where(crossed, weight[open_], high[open_])
            low[open_] = torch.where(crossed, low[open_], weight[open_])
            weight = torch.where(high.isfinite(), (low + high) / 2, weight * 10)
        on = nearest.isfinite().nonzero().squeeze(1)
        if self.refine and len(on):
            way = images[on], labels[on], best[on]
            best[on] = back_to_the_boundary(net, *way, farthest=1.0, box=self.box)
        return best

    def _search(self, net: nn.Module, images: Tensor, labels: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run Adam under one weight per image; return where it led to a wrong one, the nearest such, and how far."""
        best, nearest = images.clone(), torch.full_like(weight, torch.inf)
        crossed = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        free = self._free(images)
        moments = torch.zeros_like(free), torch.zeros_like(free)
        for step in range(self.steps):
            gradient, there, norms, wrong = self._look(net, images, labels, weight, free)
            if step >= self.steps // 2:
                # The first steps are long and cross any boundary; where a weight leads to is told by the last ones.
                crossed |= wrong
            better = wrong & (norms < nearest)
            best[better], nearest[better] = there[better], norms[better]
            # Down to nothing in the end: a step of constant length goes to and fro across the boundary.
            rate = self.lr * (1 + math.cos(math.pi * step / self.steps)) / 2
            free = free - rate * _adam(moments, gradient, step + 1)
        return crossed, best, nearest

    def _look(
        self, net: nn.Module, images: Tensor, labels: Tensor, weight: Tensor, free: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the loss's gradient, the images, how far they are, and which are wrong."""
        leaf = free.detach().requires_grad_()
        with torch.enable_grad():
            there = (torch.tanh(leaf) + 1) / 2 if self.box else leaf
            scores = net(there).float()
            margin = margin_loss(scores, labels)
            squares = (there - images).flatten(1).square().sum(1)
            loss = squares + weight * (-margin).clamp_min(0)
            (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        wrong = ~CLASSIFICATION.right(scores, labels)
        return gradient, there.detach(), squares.detach().sqrt(), wrong

    def _free(self, images: Tensor) -> Tensor:
        return torch.atanh((2 * images - 1) * _EDGE) if self.box else images.clone()


def _adam(moments: tuple[Tensor, Tensor], gradient: Tensor, step: int) -> Tensor:
    """Return Adam's step of length 1, and bring its moments up to date in place."""
    mean, square = moments
    mean.mul_(_MOMENTS[0]).add_(gradient, alpha=1 - _MOMENTS[0])
    square.mul_(_MOMENTS[1]).addcmul_(gradient, gradient, value=1 - _MOMENTS[1])
    unbiased = square / (1 - _MOMENTS[1] ** step)
    moved: Tensor = mean / (1 - _MOMENTS[0] ** step) / (unbiased.sqrt() + 1e-8)
    return moved


plugin = CarliniWagner
