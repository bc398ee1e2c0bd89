"""ADMM: weights are pulled towards the nearest net that meets the budget, and then projected onto it (RobustADMM).

Ye et al., "Adversarial robustness vs. model compression, or both?" (ICCV 2019): the loss gets ρ/2·‖W − Z + U‖². At
every update ρ grows, Z becomes the projection of W + U onto the budget and U becomes U + W − Z. At the freeze W itself
is projected, and the rest of the training goes on under its masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from robustdeploy.core.bounds import Count, Positive, Share
from robustdeploy.core.recipe import Budget
from robustdeploy.errors import BudgetError
from robustdeploy.prune.channel_weights import ChannelWeights
from robustdeploy.prune.courses import Once, begun_parts
from robustdeploy.prune.groups import own_names
from robustdeploy.prune.magnitude import Magnitude
from robustdeploy.prune.masked_channels import (
    MaskedChannels,
    Prunable,
    in_equal_shares,
    prunable,
    rehearsed_channels,
)
from robustdeploy.prune.masked_weights import MaskedWeights, Spread, rehearsed
from robustdeploy.prune.protocol import PhaseInfo
from robustdeploy.prune.spreads import Columns, Uniform, highest
from robustdeploy.prune.weight_budget import maskable


@dataclass(frozen=True)
class Admm:
    """Single weights or columns by magnitude, the same share of each layer, after a pull towards such a net."""

    of: Literal["weights", "columns", "filters", "bn-filters"] = "weights"
    """What goes or stays together. ``columns``: all weights with which one input, at one position of the filter, is
    read. ``filters``: channels, by the weights that make them, and ``bn-filters``, by the scale of their normalisation;
    both leave a smaller net."""
    rho: Positive = 1e-3
    """Strength of the pull at first."""
    growth: Positive = 1.3
    """Factor of its growth at each update."""
    updates: Count = 10
    """Updates of the net that is pulled to, at equal distances until the freeze."""
    freeze: Share = 0.5
    """Share of the training after which the weights are projected and the masks stay."""
    as_released: bool = False
    """Multiply the pull's gradient by 1 + the updates so far, as the authors' program does, which never detaches U."""

    def __post_init__(self) -> None:
        if self.freeze == 0:
            raise ValueError("freeze must be above 0: there must be a way on which the weights are pulled")

    @property
    def removes_channels(self) -> bool:
        """Whether the net gets smaller; otherwise the budget counts what is not zero."""
        return self.of in ("filters", "bn-filters")

    def wrap(self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget) -> MaskedWeights | MaskedChannels:
        """Attach to ``net`` for images of C×H×W; BudgetError when ``budget`` is out of reach."""
        if self.removes_channels:
            return self._wrap_channels(net, image_shape, budget)
        layers = maskable(net, image_shape, budget, f"masks on {self.of}")
        spread: Spread = Uniform(layers.limits, tuple(layers.sizes))
        if self.of == "columns":
            spread = Columns.over(net, layers)
        return rehearsed(
            net, image_shape, layers, Once(self.freeze), lambda tensors: (Pulled(tensors, spread, self), spread)
        )

    def _wrap_channels(self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget) -> MaskedChannels:
        channels = prunable(net, image_shape, budget)
        made_by = ChannelWeights.of_filters if self.of == "filters" else ChannelWeights.of_norms
        weights = made_by(net, channels.groups)
        if bare := weights.without(channels.groups):
            raise BudgetError(
                f"no normalisation scales the channels of {', '.join(own_names(name) for name in bare)}, by which "
                "bn-filters would choose them; say of: filters"
            )
        spread = KeptChannels(weights, channels)
        return rehearsed_channels(
            net,
            image_shape,
            channels,
            weights,
            Once(self.freeze),
            lambda tensors: (PulledChannels(Pulled(tensors, spread, self), weights), in_equal_shares),
        )


@dataclass(frozen=True)
class KeptChannels:
    """Which weights are of channels that stay where every group keeps the same share of its largest."""

    weights: ChannelWeights
    channels: Prunable

    def __call__(self, values: Sequence[Tensor], left: float) -> list[Tensor]:
        """Return masks shaped like ``values``, which are magnitudes."""
        norms = self.weights.summed([value.square() for value in values])
        kept = [highest(norm, count) for norm, count in zip(norms, self.channels.even, strict=True)]
        return self.weights.masks(kept, values)


class Pulled(nn.Module):
    """Weights compete by magnitude; Z and U, one of each for every weight, pull them."""

    def __init__(self, tensors: Sequence[Tensor], spread: Spread, options: Admm) -> None:
        super().__init__()
        self._spread, self._options = spread, options
        for number, tensor in enumerate(tensors):
            self.register_buffer(f"z{number}", torch.zeros_like(tensor))
            self.register_buffer(f"u{number}", torch.zeros_like(tensor))
        # Counted from 1, as the first Z is of the weights that the training begins with; 0 is before that.
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64, device=tensors[0].device))
        self.values = Magnitude().values

    def _all(self, what: str, weights: Sequence[Tensor]) -> list[Tensor]:
        return [cast(Tensor, getattr(self, f"{what}{number}")) for number in range(len(weights))]

    def begin(self, weights: Sequence[Tensor], keeps: Sequence[Tensor], phase: PhaseInfo) -> None:
        """Project the weights that are there, the first time."""
        if int(cast(Tensor, self.updates)) == 0:
            self._project(weights)

    @torch.no_grad()
    def _project(self, weights: Sequence[Tensor]) -> None:
        u = self._all("u", weights)
        sums = [value + one for value, one in zip(weights, u, strict=True)]
        kept = self._spread([each.abs() for each in sums], 0.0)
        for z, each, keep in zip(self._all("z", weights), sums, kept, strict=True):
            z.copy_(each * keep)
        cast(Tensor, self.updates).add_(1)

    def penalty(self, weights: Sequence[Tensor]) -> Tensor | None:
        """Return Σ ρ/2·‖W − Z + U‖², whose gradient is ρ·(W − Z + U)."""
        done = int(cast(Tensor, self.updates)) - 1
        if done < 0:
            return None
        strength = self._options.rho * self._options.growth**done * (1 + done if self._options.as_released else 1)
        pairs = zip(weights, self._all("z", weights), self._all("u", weights), strict=True)
        return strength / 2 * torch.stack([(value - z + u).square().sum() for value, z, u in pairs]).sum()

    def after_step(self, progress: float, weights: Sequence[Tensor], keeps: Sequence[Tensor]) -> None:
        """Update Z and U where a new part of the way has begun."""
        done = int(cast(Tensor, self.updates)) - 1
        if begun_parts(self._options.updates, progress / self._options.freeze) > done >= 0:
            self._project(weights)
            for value, z, u in zip(weights, self._all("z", weights), self._all("u", weights), strict=True):
                u.add_(value - z)


class PulledChannels(nn.Module):
    """Channels compete by the norm of their weights, which Z and U pull."""

    def __init__(self, pulled: Pulled, weights: ChannelWeights) -> None:
        super().__init__()
        self.pulled, self._weights = pulled, weights
        self.begin, self.penalty, self.after_step = pulled.begin, pulled.penalty, pulled.after_step

    def values(self, weights: Sequence[Tensor], keeps: Sequence[Tensor]) -> list[Tensor]:
        """Return the squared norms."""
        return self._weights.summed([weight.square() for weight in weights])


plugin = Admm
