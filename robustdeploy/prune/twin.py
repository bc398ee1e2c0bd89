"""Twin representations: every weight is trained as a product of two, which decay makes sparse (TwinRep).

Li et al., "Learning adversarially robust sparse networks via weight reparameterization" (AAAI 2023): a weight is w·a;
the weight decay of both factors together is a pull on the absolute value of their product, so many end near zero. The
smallest products of the whole net are cut once, early, and what is left goes on as products until the freeze.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from robustdeploy.core.bounds import Share
from robustdeploy.core.recipe import Budget
from robustdeploy.onboard.draws import key
from robustdeploy.prune.courses import Once, check_shares
from robustdeploy.prune.masked_weights import MaskedWeights, rehearsed
from robustdeploy.prune.protocol import PhaseInfo
from robustdeploy.prune.spreads import spread_of
from robustdeploy.prune.weight_budget import maskable


@dataclass(frozen=True)
class Twin:
    """Single weights by the magnitude of the product that each of them is trained as."""

    cut: Share = 0.1
    """Share of the training after which the budget is met."""
    freeze: Share = 0.7
    """Share of the training after which the two factors are one weight again."""
    factors: Literal["balanced", "kaiming"] = "balanced"
    """What the factors begin with. ``balanced``: their product is the weight that was there, so a trained net stays as
    it is; ``kaiming``: the second one is random, as published for trainings from fresh weights."""
    spread: Literal["global", "uniform", "erk"] = "global"
    """How the budget is shared out: one threshold, the same share of each layer, or as ERK does."""

    removes_channels: ClassVar[bool] = False
    """The budget counts what is not zero."""
    averages: ClassVar[bool] = False
    """An average of each factor is no average of their product."""

    def __post_init__(self) -> None:
        check_shares(self.cut, self.freeze)

    def wrap(self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget) -> MaskedWeights:
        """Attach masks to ``net`` for images of C×H×W; BudgetError when one weight per layer is more than allowed."""
        layers = maskable(net, image_shape, budget, "masks on weights")
        return rehearsed(
            net,
            image_shape,
            layers,
            Once(self.freeze, at=self.cut),
            lambda tensors: (Factors(tensors, self.factors == "kaiming"), spread_of(self.spread, layers, tensors)),
        )


class Factors(nn.Module):
    """One more factor for each weight; 1 until the training of scores begins, and again when the masks stay."""

    def __init__(self, tensors: Sequence[Tensor], random: bool) -> None:
        super().__init__()
        self._random = random
        self.factors = nn.ParameterList([nn.Parameter(torch.ones_like(tensor)) for tensor in tensors])
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool, device=tensors[0].device))

    @torch.no_grad()
    def begin(self, weights: Sequence[Tensor], keeps: Sequence[Tensor], phase: PhaseInfo) -> None:
        """Split each weight in two, the first time."""
        if bool(cast(Tensor, self.begun)):
            return
        for number, (value, factor) in enumerate(zip(weights, self.factors, strict=True)):
            if self._random:
                generator = torch.Generator().manual_seed(key("twin", number))
                bound = math.sqrt(6 / value[0].numel())
                factor.copy_((2 * torch.rand(value.shape, generator=generator) - 1) * bound)
            else:
                factor.copy_(value.abs().sqrt())
                value.copy_(value.sign() * factor)
        cast(Tensor, self.begun).fill_(True)

    def values(self, weights: Sequence[Tensor], keeps: Sequence[Tensor]) -> list[Tensor]:
        """Return the magnitudes of the products; what was cut stays cut."""
        pairs = zip(weights, self.factors, keeps, strict=True)
        return [(value * factor.detach()).abs().masked_fill(~keep, -1) for value, factor, keep in pairs]

    def product(self, number: int, weight: Tensor, keep: Tensor) -> Tensor:
        """Return the product of both factors where it is kept."""
        return cast(Tensor, weight * self.factors[number] * keep)

    def own_parameters(self) -> list[dict[str, object]]:
        """Train the factors as the weights are trained, decay included."""
        return [{"params": list(self.factors), "name": "factors"}]

    @torch.no_grad()
    def settle(self, weights: Sequence[Tensor], keeps: Sequence[Tensor], *, last: bool) -> None:
        """Put the product into the net, once the masks stay."""
        for value, factor in zip(weights, self.factors, strict=True):
            if last:
                value.mul_(factor)
                factor.fill_(1)


plugin = Twin
