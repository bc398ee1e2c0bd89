"""Sparse training from the start: now and then the smallest weights are dropped and as many others grow at random.

FlyingBird (Chen et al., "Sparsity winning twice", ICLR 2022) after SET (Mocanu et al. 2018) and RigL (Evci et al.
2020): masks begin at random at the budget, each layer keeps its number, and the share that is exchanged falls along a
cosine to zero. What grows begins at zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from robustdeploy.core.bounds import Count, Rate, Share
from robustdeploy.core.recipe import Budget
from robustdeploy.onboard.draws import key
from robustdeploy.prune.courses import Repeated
from robustdeploy.prune.masked_weights import MaskedWeights, rehearsed
from robustdeploy.prune.spreads import Erk, Uniform, highest
from robustdeploy.prune.weight_budget import maskable


@dataclass(frozen=True)
class Regrow:
    """Random masks on single weights, whose smallest are exchanged for others."""

    updates: Count = 80
    """Times that weights are exchanged, at equal distances until the freeze."""
    drop: Rate = 0.5
    """Share of a layer's kept weights that is exchanged at first."""
    freeze: Share = 0.75
    """Share of the training after which the masks stay."""
    uniform: bool = False
    """Keep the same share of each layer instead of ERK's, which leaves small layers denser."""
    seed: int = 0
    """Another number draws other masks."""

    removes_channels: ClassVar[bool] = False
    """The budget counts what is not zero."""

    def __post_init__(self) -> None:
        if self.freeze == 0:
            raise ValueError("freeze must be above 0: there must be a way on which weights are exchanged")

    def wrap(self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget) -> MaskedWeights:
        """Attach masks to ``net`` for images of C×H×W; BudgetError when one weight per layer is more than allowed."""
        layers = maskable(net, image_shape, budget, "masks on weights")

        def parts(tensors: Sequence[Tensor]) -> tuple[Exchanged, Erk | Uniform]:
            erk = Erk(layers.limits, tuple(tuple(tensor.shape) for tensor in tensors))
            spread = Uniform(layers.limits, tuple(layers.sizes)) if self.uniform else erk
            return Exchanged(self.drop, self.freeze, self.seed, tensors[0].device), spread

        return rehearsed(net, image_shape, layers, Repeated(self.updates, self.freeze), parts)


class Exchanged(nn.Module):
    """The larger kept weights are above all others, and the rest competes by lot."""

    def __init__(self, drop: float, freeze: float, seed: int, device: torch.device) -> None:
        super().__init__()
        self._drop, self._freeze, self._seed = drop, freeze, seed
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64, device=device))
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64, device=device))

    def after_step(self, progress: float, weights: Sequence[Tensor], keeps: Sequence[Tensor]) -> None:
        """Note how far the training is, and hold masked weights at zero, off which momentum would move them."""
        cast(Tensor, self.progress).fill_(progress)
        for value, keep in zip(weights, keeps, strict=True):
            value.masked_fill_(~keep, 0)

    def values(self, weights: Sequence[Tensor], keeps: Sequence[Tensor]) -> list[Tensor]:
        """Return 2 for what stays, -1 for what is dropped, and a random number of [0, 1) for all else."""
        draws, at = cast(Tensor, self.draws), min(1.0, float(cast(Tensor, self.progress)) / self._freeze)
        drop, found = self._drop * (1 + math.cos(math.pi * at)) / 2, list[Tensor]()
        for number, (value, keep) in enumerate(zip(weights, keeps, strict=True)):
            # A function of its place and not of a generator's state, so that every process and every resumed training
            # draws the same.
            generator = torch.Generator().manual_seed(key(self._seed, "regrow", int(draws), number))
            lot = torch.rand(value.shape, generator=generator).to(value.device)
            if int(draws):
                stays = highest(value.abs().masked_fill(~keep, -1), round((1 - drop) * int(keep.sum())))
                lot = lot.masked_fill(keep, -1).masked_fill(stays, 2)
            found.append(lot)
        draws += 1
        return found


plugin = Regrow
