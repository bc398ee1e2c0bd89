"""One-shot pruning: what is smallest in a trained net goes at once, and the rest trains on (Wang et al., 2018).

"Adversarial robustness of pruned neural networks" (ICLR workshop 2018) cuts single weights by magnitude under one
threshold for the whole net, "class-blind" as See et al. (CoNLL 2016) call it, or filters by the mean magnitude of their
weights. Here filters go with all that is coupled to them, and the net is smaller afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from robustdeploy.core.bounds import Share
from robustdeploy.core.recipe import Budget
from robustdeploy.prune.channel_weights import ChannelWeights
from robustdeploy.prune.courses import Once
from robustdeploy.prune.magnitude import Magnitude
from robustdeploy.prune.masked_channels import (
    MaskedChannels,
    in_equal_shares,
    in_one_order,
    prunable,
    rehearsed_channels,
)
from robustdeploy.prune.masked_weights import MaskedWeights, rehearsed
from robustdeploy.prune.spreads import spread_of
from robustdeploy.prune.weight_budget import maskable


@dataclass(frozen=True)
class OneShot:
    """What is smallest, once."""

    of: Literal["weights", "channels"] = "weights"
    """What goes: single weights, which leaves the net its shape, or whole channels."""
    at: Share = 0.5
    """Share of the training after which it is cut; with 0 that is behind the first step, for a net trained already."""
    spread: Literal["global", "uniform", "erk"] = "global"
    """How the budget is shared out: one threshold, the same share of each layer, or, of weights, as ERK does."""

    def __post_init__(self) -> None:
        if self.of == "channels" and self.spread == "erk":
            raise ValueError("spread: erk is of single weights; of channels there are global and uniform")

    @property
    def removes_channels(self) -> bool:
        """Whether the net gets smaller; otherwise the budget counts what is not zero."""
        return self.of == "channels"

    def wrap(self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget) -> MaskedWeights | MaskedChannels:
        """Attach to ``net`` for images of C×H×W; BudgetError when ``budget`` is out of reach."""
        if self.of == "channels":
            channels = prunable(net, image_shape, budget)
            filters = ChannelWeights.of_filters(net, channels.groups)
            spread = in_one_order if self.spread == "global" else in_equal_shares
            return rehearsed_channels(
                net, image_shape, channels, filters, Once(self.at), lambda tensors: (MeanMagnitude(filters), spread)
            )
        layers = maskable(net, image_shape, budget, "masks on weights")
        return rehearsed(
            net,
            image_shape,
            layers,
            Once(self.at),
            lambda tensors: (Magnitude(), spread_of(self.spread, layers, tensors)),
        )


@dataclass(frozen=True)
class MeanMagnitude:
    """Channels compete by the ℓ1 norm of the weights that make them, over their number."""

    filters: ChannelWeights

    def values(self, weights: Sequence[Tensor], keeps: Sequence[Tensor]) -> list[Tensor]:
        """Return the mean magnitudes."""
        sums = self.filters.summed([weight.abs() for weight in weights])
        numbers = self.filters.numbers(weights)
        return [total / count.clamp_min(1) for total, count in zip(sums, numbers, strict=True)]


plugin = OneShot
