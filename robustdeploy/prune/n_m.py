"""N:M masks: of every M consecutive inputs at most N weights stay, the pattern that sparse matrix units can use.

Which weights stay is learnt like any other weight mask (see ``prune.weight_masks``), but each group of M has its own
threshold. 2:4 is what NVIDIA's sparse tensor cores multiply at up to twice the rate (Mishra et al., "Accelerating
sparse deep neural networks", 2021). Whether TensorRT takes such a kernel depends on the layer; it has not been run on
hardware by the makers of this tool.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustdeploy.core.bounds import Count, Rate, Share
from robustdeploy.core.recipe import Budget
from robustdeploy.cost.sparse import PATTERNED
from robustdeploy.errors import BudgetError
from robustdeploy.nets.normalised import kind_of
from robustdeploy.prune.courses import Cubic, check_shares
from robustdeploy.prune.groups import told_whole
from robustdeploy.prune.masked_weights import MaskedWeights, rehearsed
from robustdeploy.prune.weight_budget import (
    LayerWeight,
    Limit,
    Maskable,
    layer_weights,
    unmasked,
    weight_costs,
    weight_limits,
)
from robustdeploy.prune.weight_masks import WeightMasks


@dataclass(frozen=True)
class NM:
    """At most n of every m consecutive input channels, at each output and filter position."""

    n: Count = 2
    """Weights that stay of each group."""
    m: Count = 4
    """Consecutive inputs that make a group."""
    lr: Rate = 0.01
    """Step of a mask's M; its inverse is also the number of steps over which M averages its gradient."""
    warmup: Share = 0.1
    """Share of the training before the first layer takes the pattern."""
    freeze: Share = 0.65
    """Share of the training after which all chosen layers have the pattern and the masks stay."""

    needs_budget: ClassVar[bool] = False
    """The pattern itself says how much is masked."""
    removes_channels: ClassVar[bool] = False
    """The budget counts what is not zero."""

    def __post_init__(self) -> None:
        check_shares(self.warmup, self.freeze)
        if not 1 <= self.n < self.m:
            raise ValueError(f"1 <= n < m is needed, not n {self.n} and m {self.m}")
        if not 0 < self.lr <= 1:
            raise ValueError(f"lr must be above 0 and at most 1, not {self.lr}")

    def wrap(self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget) -> MaskedWeights:
        """Attach masks to ``net`` for one image of C×H×W; BudgetError when the pattern on all layers is not enough.

        The pattern goes on as few layers as the budget's non-zero ``ops`` and ``params`` need, those first that save
        most of it; without a budget on all layers whose inputs are a multiple of m. Between warm-up and freeze the
        layers take it one by one in that order, along Zhu and Gupta's cubic.
        """
        every = layer_weights(net, image_shape)
        limits = weight_limits(budget, weight_costs(net, image_shape, budget, every))
        able = [weight for weight in every if self._reads_groups(net, weight)]
        if not able:
            left = told_whole(unmasked(net, image_shape))
            raise BudgetError(f"no layer of this {kind_of(net)} reads a multiple of {self.m} inputs{left}")
        chosen = self._chosen(every, able, limits)
        costs = weight_costs(net, image_shape, budget, chosen)
        whole = {w.layer: self._why_whole(net, w) for w in every if w not in chosen}
        whole |= unmasked(net, image_shape)
        layers = Maskable(tuple(chosen), costs, limits, whole)
        return rehearsed(
            net,
            image_shape,
            layers,
            Cubic(self.warmup, self.freeze),
            lambda tensors: (WeightMasks(tensors, chosen, self.lr), Pattern(self.n, self.m)),
        )

    def _reads_groups(self, net: nn.Module, weight: LayerWeight) -> bool:
        layer = net.get_submodule(weight.layer)
        return isinstance(layer, PATTERNED) and layer.weight.shape[1] % self.m == 0

    def _why_whole(self, net: nn.Module, weight: LayerWeight) -> str:
        if self._reads_groups(net, weight):
            return "the budget is met without it"
        return f"the inputs that one of its outputs reads are not a multiple of {self.m}"

    def _chosen(
        self, every: Sequence[LayerWeight], able: Sequence[LayerWeight], limits: Sequence[Limit]
    ) -> list[LayerWeight]:
        """Return the layers that take the pattern, in the order in which they do."""
        left, chosen = list(able), list[LayerWeight]()
        # Greedy from the layer that saves most. Which layers have the pattern matters to accuracy, so as few as
        # possible take it.
        while left:
            missed = [limit for limit in limits if self._cost(limit, every, chosen) > limit.most]
            if limits and not missed:
                return chosen
            chosen.append(max(left, key=lambda weight: self._saving(weight, missed)))
            left.remove(chosen[-1])
        for limit in limits:
            if (smallest := self._cost(limit, every, chosen)) > limit.most:
                raise limit.refusal(smallest, f"that {self.n}:{self.m} on the {len(able)} layers it fits reaches here")
        return chosen

    def _saving(self, weight: LayerWeight, missed: Sequence[Limit]) -> float:
        """Return how much of what is missed the pattern on ``weight`` saves, or of the operations without a limit."""
        saved = {"ops": weight.macs, "params": weight.size}
        return sum(saved[limit.cost.name] / limit.cost.dense for limit in missed) if missed else float(weight.macs)

    def _cost(self, limit: Limit, every: Sequence[LayerWeight], chosen: Sequence[LayerWeight]) -> int:
        # The pattern holds n weights of every group, so what it saves is known before any training.
        return limit.cost.of([w.size // self.m * self.n if w in chosen else w.size for w in every])


@dataclass(frozen=True)
class Pattern:
    """Keeps the ``n`` highest of each ``m`` consecutive inputs, in the first layers only while there is way to go."""

    n: int
    m: int

    def __call__(self, values: Sequence[Tensor], left: float) -> list[Tensor]:
        """Return which weights are kept when ``left`` of the way to the pattern on all layers is still to go."""
        taking = math.ceil((1 - left) * len(values))
        return [
            self._kept(value) if number < taking else torch.ones_like(value, dtype=torch.bool)
            for number, value in enumerate(values)
        ]

    def _kept(self, value: Tensor) -> Tensor:
        # Sparse matrix units read along the inputs at one filter position; in torch's layout these do not lie side by
        # side.
        inputs_last = value.movedim(1, -1)
        groups = inputs_last.reshape(-1, self.m)
        # Stable, so that equal values, as fresh layers of zeros have them, give the same pattern on every machine.
        highest = groups.argsort(dim=1, descending=True, stable=True)[:, : self.n]
        kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, highest, True)
        return kept.view(inputs_last.shape).movedim(-1, 1)


plugin = NM
