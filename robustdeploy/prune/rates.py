"""Rates: how much of each layer stays, learnt by the loss beside the scores of what stays (HARP).

Zhao and Wressnegger, "Holistic adversarially robust pruning" (ICLR 2023): layer l keeps the share
k_l = k_min + (1 − k_min)·σ(r_l) of its highest scores. The gradient of k_l is that of the layer's masks, summed. The
loss gets γ times what the net costs beyond its budget, as a share of it; γ grows by its first value in every epoch
until one ends within the budget. In the paper the budget is then nearly met; here all r_l are shifted by one constant,
which meets it exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from robustdeploy.prune.protocol import PhaseInfo
from robustdeploy.prune.spreads import highest, scaled_counts
from robustdeploy.prune.weight_budget import Limit, Maskable

Excess = Callable[[npt.NDArray[np.float64]], tuple[float, npt.NDArray[np.float64]]]
"""From the shares kept, by how much of it the budget is exceeded, and the gradient of that."""
START, LEAST = 0.1, 0.1
"""Share that every layer keeps at first, if the budget is below it; and least share, in units of the budget's."""


class LearntRates(nn.Module):
    """One r per layer or group of channels."""

    def __init__(self, kept: float, layers: int, gamma: float, excess: Excess, device: torch.device) -> None:
        super().__init__()
        self._gamma, self._excess, self._per_epoch = gamma, excess, 1
        self.least = min(LEAST * kept, 0.5)
        # A start below the budget would end the growth of γ before anything is learnt.
        start = min(max(START, kept), 0.999)
        logit = math.log((start - self.least) / (1 - start))
        self.rates = nn.Parameter(torch.full((layers,), logit, device=device))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=device))
        self.register_buffer("epochs", torch.zeros((), dtype=torch.int64, device=device))
        self.register_buffer("met", torch.zeros((), dtype=torch.bool, device=device))

    def shares(self) -> Tensor:
        """Return the share that each layer keeps."""
        return self.least + (1 - self.least) * torch.sigmoid(self.rates)

    def learning(self, number: int) -> Tensor:
        """Return 0 with the gradient of a layer's share, to be added to its masks."""
        share = self.shares()[number]
        return share - share.detach()

    def begin(self, phase: PhaseInfo) -> None:
        """Count the epochs of a phase."""
        self._per_epoch = max(1, phase.steps // max(1, phase.epochs))

    def penalty(self) -> Tensor | None:
        """Return γ times the excess, linear around the shares as they are."""
        if not self.rates.requires_grad:
            return None
        shares = self.shares()
        excess, slope = self._excess(shares.detach().double().cpu().numpy())
        moving = shares - shares.detach()
        linear = max(0.0, excess) + (moving * torch.as_tensor(slope, dtype=moving.dtype, device=moving.device)).sum()
        gamma = self._gamma * (1 + int(cast(Tensor, self.epochs)))
        # Times 0 and not left out: every process must have the same graph.
        return gamma * linear * (1.0 if excess > 0 else 0.0)

    @torch.no_grad()
    def after_step(self) -> None:
        """Let γ grow at the end of an epoch, until one ends within the budget."""
        steps, met = cast(Tensor, self.steps).add_(1), cast(Tensor, self.met)
        if int(steps) % self._per_epoch == 0 and not bool(met):
            # Four digits, as the authors round it.
            met.fill_(self._excess(self.shares().double().cpu().numpy())[0] < 5e-5)
            cast(Tensor, self.epochs).add_(~met)

    def shifted(self, at: float) -> list[float]:
        """Return the shares when all r are shifted by the logit of ``at``: 0.5 is no shift, 0 and 1 the two ends."""
        if at in (0.0, 1.0):
            return [self.least if at == 0 else 1.0] * len(self.rates)
        moved = torch.sigmoid(self.rates.detach().double() + math.log(at / (1 - at)))
        return [float(share) for share in self.least + (1 - self.least) * moved]

    def worth(self, sizes: Sequence[int]) -> list[npt.NDArray[np.float64]]:
        """Return, per group, the shift downwards at which it loses its first, second, … channel."""
        position = [(np.arange(size) + 0.5) / size for size in sizes]
        pairs = zip(self.rates.detach().double().cpu().numpy(), position, strict=True)
        return [rate - np.log(at / (1 - at)) for rate, at in pairs]


class RateSpread:
    """Of each layer of single weights the share that its rate says; all shifted alike to meet the budget."""

    def __init__(self, rates: LearntRates, layers: Maskable) -> None:
        self._rates, self._layers = rates, layers

    def __call__(self, values: Sequence[Tensor], left: float) -> list[Tensor]:
        """Return which weights are kept; a ``left`` of 0 meets the budget, anything else only follows the rates."""
        sizes, rates = self._layers.sizes, self._rates
        if left > 0:
            counts = [max(1, round(share * n)) for share, n in zip(rates.shares().tolist(), sizes, strict=True)]
        else:
            counts = scaled_counts(rates.shifted, sizes, self._layers.limits, 0.0)
        return [highest(value, count) for value, count in zip(values, counts, strict=True)]


def excess_of_weights(limits: Sequence[Limit], sizes: Sequence[int]) -> Excess:
    """Return what shares of weights cost beyond the tightest of ``limits``."""
    counts = np.array(sizes, dtype=float)

    def excess(shares: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        slopes = [counts * np.array(limit.cost.each, dtype=float) / limit.most for limit in limits]
        found = [
            limit.cost.fixed / limit.most + float(slope @ shares) - 1
            for limit, slope in zip(limits, slopes, strict=True)
        ]
        if not found:
            return -1.0, np.zeros(len(counts))
        tightest = int(np.argmax(found))
        return found[tightest], slopes[tightest]

    return excess
