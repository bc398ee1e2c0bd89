"""Importance scores, trained while the weights rest, on single weights or channels (HYDRA, and HARP by its rates).

Made for three phases: pretrain (``train: weights``), scores (``train: scores``), fine-tune (``train: weights``). When
the phase of scores begins, each weight's score is the weight itself, times sqrt(6 / fan-in) over the layer's largest.
In every step the weights of the highest magnitude of score are used, and the others are zero; the loss reaches the
scores as if nothing were cut (straight-through). When the phase ends the choice stays.

With ``rates: uniform`` each layer keeps the same share, the largest that meets the budget; layers that a few weights
connect are no exception (Sehwag et al., "HYDRA", NeurIPS 2020). With ``rates: learned`` the loss finds a share for each
layer as well (see ``prune.rates``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from robustdeploy.core.bounds import Positive
from robustdeploy.core.recipe import Budget
from robustdeploy.prune.channel_scores import ChannelScores
from robustdeploy.prune.channel_weights import ChannelWeights
from robustdeploy.prune.courses import EveryStep
from robustdeploy.prune.masked_channels import (
    ChannelSpread,
    MaskedChannels,
    Prunable,
    in_equal_shares,
    prunable,
    rehearsed_channels,
)
from robustdeploy.prune.masked_weights import MaskedWeights, Spread, rehearsed
from robustdeploy.prune.rates import Excess, LearntRates, RateSpread, excess_of_weights
from robustdeploy.prune.spreads import Uniform
from robustdeploy.prune.weight_budget import maskable
from robustdeploy.prune.weight_scores import WeightScores


@dataclass(frozen=True)
class Scores:
    """One score per weight of every convolution and linear layer, or per channel."""

    of: Literal["weights", "channels"] = "weights"
    """What is scored: single weights, which leaves the net its shape, or whole channels."""
    rates: Literal["uniform", "learned"] = "uniform"
    """How the budget is shared out: the same share of each layer (HYDRA), or shares that the loss finds (HARP)."""
    lr: Positive | None = None
    """Rate of the scores; unset, they follow the phase's schedule as the papers' do."""
    gamma: Positive = 0.01
    """With learned rates: weight of what is over the budget in the first epoch; it grows by as much in each."""

    @property
    def removes_channels(self) -> bool:
        """Whether the net gets smaller; otherwise the budget counts what is not zero."""
        return self.of == "channels"

    def wrap(self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget) -> MaskedWeights | MaskedChannels:
        """Attach scores to ``net`` for images of C×H×W; BudgetError when ``budget`` is out of reach.

        Of single weights the budget's ``ops`` and ``params`` are those other than zero; ``channel_multiple`` has no
        meaning then.
        """
        wrap: Callable[..., MaskedWeights | MaskedChannels] = (
            self._wrap_channels if self.of == "channels" else self._wrap_weights
        )
        return wrap(net, image_shape, budget)

    @property
    def _course(self) -> EveryStep:
        # Learned rates find their way to the budget by themselves, and are held to it at the end alone. Of channels the
        # equal shares are known before, and need no search in each step.
        return EveryStep(way=0.0 if (self.of, self.rates) == ("weights", "uniform") else 1.0)

    def _wrap_weights(self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget) -> MaskedWeights:
        layers = maskable(net, image_shape, budget, "scores on weights")

        def parts(tensors: Sequence[Tensor]) -> tuple[WeightScores, Spread]:
            if self.rates == "uniform":
                return WeightScores(tensors, self.lr), Uniform(layers.limits, tuple(layers.sizes))
            excess = excess_of_weights(layers.limits, layers.sizes)
            rates = LearntRates(layers.share, len(tensors), self.gamma, excess, tensors[0].device)
            return WeightScores(tensors, self.lr, rates), RateSpread(rates, layers)

        return rehearsed(net, image_shape, layers, self._course, parts)

    def _wrap_channels(self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget) -> MaskedChannels:
        channels = prunable(net, image_shape, budget)
        filters = ChannelWeights.of_filters(net, channels.groups)

        def parts(tensors: Sequence[Tensor]) -> tuple[ChannelScores, ChannelSpread]:
            rates = None
            spread: ChannelSpread = in_equal_shares
            if self.rates == "learned":
                kept = float(np.mean(channels.shares))
                excess = _excess_of_channels(channels)
                rates = learnt = LearntRates(kept, len(channels.groups), self.gamma, excess, tensors[0].device)
                spread = lambda values: learnt.worth([len(value) for value in values])  # noqa: E731
            return ChannelScores(filters, channels.shares, self.lr, rates, tensors[0].device), spread

        return rehearsed_channels(net, image_shape, channels, filters, self._course, parts)


def _excess_of_channels(channels: Prunable) -> Excess:
    """Return what shares of channels cost beyond the tightest limit."""
    sizes = np.array([group.size for group in channels.groups], dtype=float)

    def excess(shares: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        kept = shares * sizes
        # One channel less of each group: costs are products of counts, and memory has kinks.
        fewer = np.maximum(kept - np.eye(len(sizes)), 0)
        used, less = float(channels.model.utilisation(kept)), channels.model.utilisation(fewer)
        return used - 1, (used - less) * sizes

    return excess


plugin = Scores
