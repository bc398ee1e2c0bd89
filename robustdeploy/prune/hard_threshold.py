"""Iterative hard thresholding: behind every step all but the largest weights are set to zero (ATMC's pruning part).

Gui et al., "Model compression with adversarial robustness" (NeurIPS 2019), project the weights onto the budget after
each step. The gradient is that of all weights, so one that was set to zero comes back when a single step makes it large
enough.

With ``bits`` the weights are pulled by ADMM towards few values as well: the loss gets ρ/2·‖W − Z + U‖², and every EVERY
steps Z becomes W + U on the nearest of 2^bits centres of each layer, one of them 0, and U becomes U + W − Z. At the end
the weights are put onto their centres. Layers with fewer weights left than centres stay as they are. The factorisation
W = B·A + C of that paper is left out: a dense runtime multiplies by W all the same, and gains nothing by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from robustdeploy.core.bounds import Bits, Positive, Share
from robustdeploy.core.recipe import Budget
from robustdeploy.prune.clusters import centres_of, nearest
from robustdeploy.prune.courses import EVERY, EveryStep
from robustdeploy.prune.magnitude import Magnitude
from robustdeploy.prune.masked_weights import MaskedWeights, Scorer, rehearsed
from robustdeploy.prune.protocol import PhaseInfo
from robustdeploy.prune.spreads import spread_of
from robustdeploy.prune.weight_budget import maskable


@dataclass(frozen=True)
class HardThreshold:
    """The largest weights of the net, chosen anew in every step; the budget holds from the first one on."""

    freeze: Share = 0.8
    """Share of the training after which the choice stays; with ``bits`` that is at its end."""
    spread: Literal["global", "uniform", "erk"] = "global"
    """How the budget is shared out: one threshold, the same share of each layer, or as ERK does."""
    bits: Bits | None = None
    """Bits of a code for each weight that is not 0; unset, weights are floats. No phase may follow that moves them."""
    rho: Positive = 0.1
    """With bits: strength of the pull towards the centres."""

    removes_channels: ClassVar[bool] = False
    """The budget counts what is not zero."""

    @property
    def averages(self) -> bool:
        """Averages of codes are no codes."""
        return self.bits is None

    @property
    def comes_last(self) -> bool:
        """Whether no phase may train the weights once the masks stay."""
        return self.bits is not None

    def wrap(self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget) -> MaskedWeights:
        """Attach masks to ``net`` for images of C×H×W; BudgetError when one weight per layer is more than allowed."""
        layers = maskable(net, image_shape, budget, "masks on weights")
        return rehearsed(
            net,
            image_shape,
            layers,
            EveryStep(None if self.bits else self.freeze),
            lambda tensors: (self._scorer(tensors), spread_of(self.spread, layers, tensors)),
        )

    def _scorer(self, tensors: Sequence[Tensor]) -> Scorer:
        return Projected() if self.bits is None else Coded(tensors, self.bits, self.rho)


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


class Coded(nn.Module):
    """As ``Projected``, and pulled towards few values by Z and U, one of each for every weight."""

    def __init__(self, tensors: Sequence[Tensor], bits: int, rho: float) -> None:
        super().__init__()
        self.bits, self._rho = bits, rho
        projected = Projected()
        self.values, self.product, self._project = projected.values, projected.product, projected.settle
        for number, tensor in enumerate(tensors):
            self.register_buffer(f"z{number}", torch.zeros_like(tensor))
            self.register_buffer(f"u{number}", torch.zeros_like(tensor))
        # Counted from 1, as the first Z is of the weights that the training begins with; 0 is before that.
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=tensors[0].device))

    def _all(self, what: str, weights: Sequence[Tensor]) -> list[Tensor]:
        return [cast(Tensor, getattr(self, f"{what}{number}")) for number in range(len(weights))]

    def _on_centres(self, value: Tensor, keep: Tensor) -> Tensor:
        """Return ``value`` on its layer's centres, 0 where it is not kept."""
        kept = value[keep]
        if len(kept) < 2**self.bits:
            return value * keep
        return nearest(value, centres_of(kept, 2**self.bits)) * keep

    @torch.no_grad()
    def begin(self, weights: Sequence[Tensor], keeps: Sequence[Tensor], phase: PhaseInfo) -> None:
        """Put Z where the weights are, the first time."""
        if int(cast(Tensor, self.steps)) == 0:
            for z, value, keep in zip(self._all("z", weights), weights, keeps, strict=True):
                z.copy_(self._on_centres(value, keep))
            cast(Tensor, self.steps).add_(1)

    def penalty(self, weights: Sequence[Tensor]) -> Tensor | None:
        """Return Σ ρ/2·‖W − Z + U‖², whose gradient is ρ·(W − Z + U)."""
        if int(cast(Tensor, self.steps)) == 0:
            return None
        pairs = zip(weights, self._all("z", weights), self._all("u", weights), strict=True)
        return self._rho / 2 * torch.stack([(value - z + u).square().sum() for value, z, u in pairs]).sum()

    @torch.no_grad()
    def after_step(self, progress: float, weights: Sequence[Tensor], keeps: Sequence[Tensor]) -> None:
        """Update Z and U in every EVERY-th step."""
        steps = cast(Tensor, self.steps).add_(1)
        if (int(steps) - 1) % EVERY == 0:
            parts = zip(weights, keeps, self._all("z", weights), self._all("u", weights), strict=True)
            for value, keep, z, u in parts:
                z.copy_(self._on_centres(value + u, keep))
                u.add_(value - z)

    @torch.no_grad()
    def settle(self, weights: Sequence[Tensor], keeps: Sequence[Tensor], *, last: bool) -> None:
        """Set what is not kept to zero, and the others on their centres once the masks stay."""
        self._project(weights, keeps, last=last)
        parts = zip(weights, keeps, self._all("z", weights), self._all("u", weights), strict=True)
        for value, keep, z, u in parts:
            # What is not kept is zero, and has nothing to be pulled to.
            z.masked_fill_(~keep, 0)
            u.masked_fill_(~keep, 0)
            if last:
                value.copy_(self._on_centres(value, keep))


plugin = HardThreshold
