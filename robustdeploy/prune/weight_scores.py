"""Weight scores: one number per weight that the loss trains instead of the weight (HYDRA, Sehwag et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustdeploy.prune.protocol import PhaseInfo
from robustdeploy.prune.rates import LearntRates


class WeightScores(nn.Module):
    """One score per weight, and with learnt rates one rate per layer."""

    def __init__(self, tensors: Sequence[Tensor], lr: float | None, rates: LearntRates | None = None) -> None:
        super().__init__()
        self._lr = lr
        # Placeholders of the right shape: a net that is trained first must not be scored by its random start.
        self.scores = nn.ParameterList([nn.Parameter(tensor.clone()) for tensor in tensors])
        self.rates = rates

    @torch.no_grad()
    def begin(self, weights: Sequence[Tensor], keeps: Sequence[Tensor], phase: PhaseInfo) -> None:
        """Score the weights as they are by now."""
        for value, score in zip(weights, self.scores, strict=True):
            # sqrt(6 / fan-in) is the bound of He's uniform initialisation; it gives the scores of each layer the range
            # of fresh weights.
            fan_in = value[0].numel()
            score.copy_(value * (math.sqrt(6 / fan_in) / value.abs().max().clamp_min(1e-12)))
        if self.rates is not None:
            self.rates.begin(phase)

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
            if self.rates is not None:
                mask = mask + self.rates.learning(number)
        return weight * mask

    def own_parameters(self) -> list[dict[str, object]]:
        """Give the scores the optimiser's own settings, and the phase's rate unless they have one."""
        return scored_groups(self.scores, self.rates, self._lr)

    def penalty(self, weights: Sequence[Tensor]) -> Tensor | None:
        """Return what the rates are over the budget."""
        return None if self.rates is None else self.rates.penalty()

    def after_step(self, progress: float, weights: Sequence[Tensor], keeps: Sequence[Tensor]) -> None:
        """Let the rates count."""
        if self.rates is not None:
            self.rates.after_step()


def scored_groups(scores: nn.ParameterList, rates: LearntRates | None, lr: float | None) -> list[dict[str, object]]:
    """Return the optimiser's groups of scores and their rates."""
    own = {} if lr is None else {"lr": lr}
    groups: list[dict[str, object]] = [{"params": list(scores), "name": "scores", **own}]
    if rates is not None:
        # Without decay, which would pull every layer towards one half.
        groups.append({"params": [rates.rates], "name": "rates", "weight_decay": 0.0, **own})
    return groups
