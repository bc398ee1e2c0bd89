"""Channel scores: one number per channel that the loss trains instead of the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustdeploy.prune.channel_weights import ChannelWeights
from robustdeploy.prune.masks import ALMOST_ZERO
from robustdeploy.prune.protocol import PhaseInfo
from robustdeploy.prune.rates import LearntRates
from robustdeploy.prune.weight_scores import scored_groups


class ChannelScores(nn.Module):
    """One score per channel: at first the magnitudes of the weights that make it, summed, over the group's largest."""

    def __init__(
        self,
        filters: ChannelWeights,
        shares: Sequence[float],
        lr: float | None,
        rates: LearntRates | None,
        device: torch.device,
    ) -> None:
        super().__init__()
        self._filters, self._shares, self._lr = filters, tuple(shares), lr
        self.scores = nn.ParameterList([nn.Parameter(torch.ones(size, device=device)) for size in filters.sizes])
        self.rates = rates

    @torch.no_grad()
    def begin(self, weights: Sequence[Tensor], keeps: Sequence[Tensor], phase: PhaseInfo) -> None:
        """Score the channels as they are by now."""
        # Sums by the channel itself. HARP's program takes the numbers as they lie, which mixes channels.
        sums = self._filters.summed([weight.abs() for weight in weights])
        for total, score in zip(sums, self.scores, strict=True):
            score.copy_(total / total.max().clamp_min(1e-12))
        if self.rates is not None:
            self.rates.begin(phase)

    def values(self, weights: Sequence[Tensor], keeps: Sequence[Tensor]) -> list[Tensor]:
        """Return the magnitudes of the scores."""
        return [score.detach().abs() for score in self.scores]

    def counts(self) -> list[int]:
        """Return how many channels of each group the rates keep."""
        shares = self._shares if self.rates is None else self.rates.shares().tolist()
        return [max(1, min(size, round(share * size))) for share, size in zip(shares, self._filters.sizes, strict=True)]

    def masks(self, keeps: Sequence[Tensor]) -> list[Tensor]:
        """Return what the channels are multiplied by; the gradient of a score is that of its channel's mask."""
        found = []
        for number, (keep, score) in enumerate(zip(keeps, self.scores, strict=True)):
            mask = keep.to(score.dtype)
            if score.requires_grad:
                # Not quite zero, or behind a ReLU a masked channel could not learn to come back.
                mask = mask.clamp_min(ALMOST_ZERO) + (score.abs() - score.detach().abs())
                if self.rates is not None:
                    mask = mask + self.rates.learning(number)
            found.append(mask)
        return found

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
