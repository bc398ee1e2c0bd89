"""Iterative hard thresholding: behind every step all but the largest weights are set to zero (ATMC's pruning part).

Gui et al., "Model compression with adversarial robustness" (NeurIPS 2019), project the weights onto the budget after
each step. The gradient is that of all weights, so one that was set to zero comes back when a single step makes it large
enough. The factorisation and the 8-bit codes of that paper are left out: a dense runtime gains nothing by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from robustdeploy.core.bounds import Share
from robustdeploy.core.recipe import Budget
from robustdeploy.prune.courses import EveryStep
from robustdeploy.prune.magnitude import Magnitude
from robustdeploy.prune.masked_weights import MaskedWeights, rehearsed
from robustdeploy.prune.spreads import spread_of
from robustdeploy.prune.weight_budget import maskable


@dataclass(frozen=True)
class HardThreshold:
    """The largest weights of the net, chosen anew in every step; the budget holds from the first one on."""

    freeze: Share = 0.8
    """Share of the training after which the choice stays."""
    spread: Literal["global", "uniform", "erk"] = "global"
    """How the budget is shared out: one threshold, the same share of each layer, or as ERK does."""

    removes_channels: ClassVar[bool] = False
    """The budget counts what is not zero."""

    def wrap(self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget) -> MaskedWeights:
        """Attach masks to ``net`` for images of C×H×W; BudgetError when one weight per layer is more than allowed."""
        layers = maskable(net, image_shape, budget, "masks on weights")
        return rehearsed(
            net,
            image_shape,
            layers,
            EveryStep(self.freeze),
            lambda tensors: (Projected(), spread_of(self.spread, layers, tensors)),
        )


class Projected:
    """Weights compete by magnitude, and those that do not stay are set to zero."""

    def __init__(self) -> None:
        self.values = Magnitude().values

    def product(self, number: int, weight: Tensor, keep: Tensor) -> Tensor:
        """Return the weight itself, whose zeros have a gradient too."""
        return weight

    def settle(self, weights: Sequence[Tensor], keeps: Sequence[Tensor], *, last: bool) -> None:
        """Set what is not kept to zero."""
        for value, keep in zip(weights, keeps, strict=True):
            value.masked_fill_(~keep, 0)


plugin = HardThreshold
