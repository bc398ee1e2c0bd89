"""Pruning in rounds, with training between them; what is gone never comes back (Guo et al., NeurIPS 2018).

Each round leaves the same share of what the one before has left, and the last one meets the budget. In "Sparse DNNs
with improved adversarial robustness" every layer loses the same share, a third in each of 16 rounds. Weights that are
exactly zero when it begins, as those of a net that was pruned before, are gone already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from robustdeploy.core.bounds import Count, Share
from robustdeploy.core.recipe import Budget
from robustdeploy.prune.courses import Rounds, check_shares
from robustdeploy.prune.masked_weights import MaskedWeights, Spread, rehearsed
from robustdeploy.prune.protocol import PhaseInfo
from robustdeploy.prune.spreads import spread_of
from robustdeploy.prune.weight_budget import maskable


@dataclass(frozen=True)
class Progressive:
    """Single weights by magnitude, round by round."""

    rounds: Count = 16
    """Times that weights are masked; the last one meets the budget."""
    warmup: Share = 0.1
    """Share of the training before the first round."""
    freeze: Share = 0.8
    """Share of the training at which the last round is."""
    spread: Literal["global", "uniform", "erk"] = "uniform"
    """How the budget is shared out: the same share of each layer, one threshold, or as ERK does."""
    keep_ends: bool = False
    """Leave the first and the last layer as they are."""

    removes_channels: ClassVar[bool] = False
    """The budget counts what is not zero."""

    def __post_init__(self) -> None:
        check_shares(self.warmup, self.freeze)

    def wrap(self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget) -> MaskedWeights:
        """Attach masks to ``net`` for images of C×H×W; BudgetError when one weight per layer is more than allowed."""
        layers = maskable(net, image_shape, budget, "masks on weights", ends_whole=self.keep_ends)
        course = Rounds(self.warmup, self.freeze, self.rounds, layers.share)
        return rehearsed(
            net,
            image_shape,
            layers,
            course,
            lambda tensors: (Survivors(), NeverBack(spread_of(self.spread, layers, tensors))),
        )


class Survivors:
    """Weights compete by magnitude; what is masked has -1."""

    def begin(self, weights: Sequence[Tensor], keeps: Sequence[Tensor], phase: PhaseInfo) -> None:
        """Take exact zeros as gone."""
        for value, keep in zip(weights, keeps, strict=True):
            # A layer that is all zeros is a fresh one; a pruned one has some weights left.
            if value.any():
                keep.logical_and_(value != 0)

    def values(self, weights: Sequence[Tensor], keeps: Sequence[Tensor]) -> list[Tensor]:
        """Return the absolute values of what is not masked."""
        return [value.abs().masked_fill(~keep, -1) for value, keep in zip(weights, keeps, strict=True)]


@dataclass(frozen=True)
class NeverBack:
    """Another spread, without the weights of value -1, of which it may choose some where too few others are left."""

    inner: Spread

    def __call__(self, values: Sequence[Tensor], left: float) -> list[Tensor]:
        """Return which weights are kept when ``left`` of the way is still to go."""
        return [keep & (value >= 0) for keep, value in zip(self.inner(values, left), values, strict=True)]


plugin = Progressive
