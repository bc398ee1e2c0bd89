"""One-shot pruning: what is smallest in a trained net goes at once, and the rest trains on (Wang et al., 2018).

"Adversarial robustness of pruned neural networks" (ICLR workshop 2018) cuts single weights by magnitude under one
threshold for the whole net, "class-blind" as See et al. (CoNLL 2016) call it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from robustdeploy.core.bounds import Share
from robustdeploy.core.recipe import Budget
from robustdeploy.prune.courses import Once
from robustdeploy.prune.magnitude import Magnitude
from robustdeploy.prune.masked_weights import MaskedWeights, rehearsed
from robustdeploy.prune.spreads import spread_of
from robustdeploy.prune.weight_budget import maskable


@dataclass(frozen=True)
class OneShot:
    """What is smallest, once."""

    at: Share = 0.5
    """Share of the training after which it is cut; with 0 that is behind the first step, for a net trained already."""
    spread: Literal["global", "uniform", "erk"] = "global"
    """How the budget is shared out: one threshold, the same share of each layer, or as ERK does."""

    removes_channels: ClassVar[bool] = False
    """The budget counts what is not zero."""

    def wrap(self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget) -> MaskedWeights:
        """Attach to ``net`` for one image of C×H×W; BudgetError when one weight per layer is more than allowed."""
        layers = maskable(net, image_shape, budget, "masks on weights")
        return rehearsed(
            net,
            image_shape,
            layers,
            Once(self.at),
            lambda tensors: (Magnitude(), spread_of(self.spread, layers, tensors)),
        )


plugin = OneShot
