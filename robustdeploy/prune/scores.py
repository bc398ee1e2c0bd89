"""Importance scores on single weights, trained while the weights rest: HYDRA (Sehwag et al., NeurIPS 2020).

Made for three phases: pretrain (``train: weights``), scores (``train: scores``), fine-tune (``train: weights``). When
the phase of scores begins, each weight's score is the weight itself, times sqrt(6 / fan-in) over the layer's largest.
In every step the weights of the highest magnitude of score are used, and the others are zero; the loss reaches the
scores as if nothing were cut (straight-through). When the phase ends the choice stays.

With ``rates: uniform`` each layer keeps the same share, the largest that meets the budget; layers that a few weights
connect are no exception.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustdeploy.core.bounds import Positive
from robustdeploy.core.recipe import Budget
from robustdeploy.prune.courses import EveryStep
from robustdeploy.prune.masked_weights import MaskedWeights, rehearsed
from robustdeploy.prune.protocol import PhaseInfo
from robustdeploy.prune.spreads import Uniform
from robustdeploy.prune.weight_budget import maskable


@dataclass(frozen=True)
class Scores:
    """One score per weight of every convolution and linear layer; the net keeps its shape and gains zeros."""

    lr: Positive | None = None
    """Rate of the scores; unset, they follow the phase's schedule as the paper's do."""

    removes_channels: ClassVar[bool] = False
    """The budget counts what is not zero."""

    def wrap(self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget) -> MaskedWeights:
        """Attach scores to ``net`` for one image of C×H×W; BudgetError when one weight per layer is more than allowed.

        The budget's ``ops`` and ``params`` are those other than zero; ``channel_multiple`` has no meaning here.
        """
        layers = maskable(net, image_shape, budget, "scores on weights")
        spread = Uniform(layers.limits, tuple(layers.sizes))
        return rehearsed(
            net, image_shape, layers, EveryStep(), lambda tensors: (WeightScores(tensors, self.lr), spread)
        )


class WeightScores(nn.Module):
    """One score per weight."""

    def __init__(self, tensors: Sequence[Tensor], lr: float | None) -> None:
        super().__init__()
        self._lr = lr
        # Placeholders of the right shape: a net that is trained first must not be scored by its random start.
        self.scores = nn.ParameterList([nn.Parameter(tensor.clone()) for tensor in tensors])

    @torch.no_grad()
    def begin(self, weights: Sequence[Tensor], keeps: Sequence[Tensor], phase: PhaseInfo) -> None:
        """Score the weights as they are by now."""
        for value, score in zip(weights, self.scores, strict=True):
            # sqrt(6 / fan-in) is the bound of He's uniform initialisation; it gives the scores of each layer the range
            # of fresh weights.
            fan_in = value[0].numel()
            score.copy_(value * (math.sqrt(6 / fan_in) / value.abs().max().clamp_min(1e-12)))

    def values(self, weights: Sequence[Tensor], keeps: Sequence[Tensor]) -> list[Tensor]:
        """Return the magnitudes of the scores."""
        return [score.detach().abs() for score in self.scores]

    def product(self, number: int, weight: Tensor, keep: Tensor) -> Tensor:
        """Return the masked weight; the gradient of a score is that of its weight's mask."""
        score = self.scores[number]
        mask = keep.to(score.dtype)
        if score.requires_grad:
            # Zero in value; its slope is the score's sign, since scores are ranked by magnitude.
            mask = mask + (score.abs() - score.detach().abs())
        return weight * mask

    def own_parameters(self) -> list[dict[str, object]]:
        """Give the scores the optimiser's own settings, and the phase's rate unless they have one."""
        rate = {} if self._lr is None else {"lr": self._lr}
        return [{"params": list(self.scores), "name": "scores", **rate}]


plugin = Scores
