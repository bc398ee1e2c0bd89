"""Trainable masks on single weights under one threshold for the whole net (HYDRA's setting, in one training).

The weights of highest value (see ``prune.weight_masks``) stay, wherever in the net they are, as many as the budget's
non-zero operations and parameters allow; in the layers this leaves with almost none, a small share stays in any case.
The budget falls along Zhu and Gupta's cubic ("To prune, or not to prune", 2017) and is met to the weight at the freeze.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from robustdeploy.core.bounds import Rate, Share
from robustdeploy.core.recipe import Budget
from robustdeploy.cost.module import copied
from robustdeploy.errors import BudgetError, TrainingError
from robustdeploy.nets.normalised import kind_of
from robustdeploy.prune.groups import COMPUTED, computed_weights, told_whole
from robustdeploy.prune.rehearsal import rehearse
from robustdeploy.prune.weight_budget import Limit, layer_weights, priced, weight_costs, weight_limits
from robustdeploy.prune.weight_masks import Course, WeightMaskedNet

BINS = 4096
"""In which values are counted to find the threshold, before the few in its own bin are sorted."""


@dataclass(frozen=True)
class Weights:
    """A mask for every weight of every convolution and linear layer; the net keeps its shape and gains zeros."""

    lr: Rate = 0.01
    """Step of a mask's M; its inverse is also the number of steps over which M averages its gradient."""
    warmup: Share = 0.1
    """Share of the training before the first weight is masked."""
    freeze: Share = 0.65
    """Share of the training after which the budget is met exactly and the masks stay."""
    floor: Share = 0.1
    """Least share of a layer's weights that is kept, in units of the share that the budget leaves of all weights."""

    removes_channels: ClassVar[bool] = False
    """The budget counts what is not zero."""

    def __post_init__(self) -> None:
        self._course()
        if not 0 <= self.floor < 1:
            raise ValueError(f"floor must be at least 0 and below 1, not {self.floor}")

    def _course(self) -> Course:
        return Course(self.lr, self.warmup, self.freeze)

    def wrap(self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget) -> WeightMaskedNet:
        """Attach masks to ``net`` for one image of C×H×W; BudgetError when one weight per layer is more than allowed.

        The budget's ``ops`` and ``params`` are those other than zero; ``channel_multiple`` has no meaning here.
        """
        weights = layer_weights(net, image_shape)
        whole = dict.fromkeys(computed_weights(net, image_shape), COMPUTED)
        left = told_whole(whole)
        if not weights:
            raise BudgetError(
                f"this {kind_of(net)} has no convolution or linear layer whose weights can be masked{left}"
            )
        costs = weight_costs(net, image_shape, budget, weights)
        limits = weight_limits(budget, costs)
        try:
            threshold = Threshold(limits, self._fewest([weight.size for weight in weights], limits))
        except BudgetError as problem:
            raise BudgetError(f"{problem}{left}") from problem
        weights = priced(weights, limits)
        rehearse(WeightMaskedNet(copied(net), weights, threshold, costs, self._course(), whole), net, image_shape)
        return WeightMaskedNet(net, weights, threshold, costs, self._course(), whole)

    def _fewest(self, sizes: Sequence[int], limits: Sequence[Limit]) -> tuple[int, ...]:
        """Return how many weights of each layer stay in any case: by the floor, or one where that is too many."""
        # The share of what can be masked: biases and normalisation are spent in any case.
        shares = [(limit.most - limit.cost.fixed) / max(1, limit.cost.dense - limit.cost.fixed) for limit in limits]
        share = self.floor * max(0.0, min(shares, default=1.0))
        floored, single = [max(1, math.ceil(share * size)) for size in sizes], [1 for _ in sizes]
        for limit in limits:
            if (smallest := limit.cost.of(single)) > limit.most:
                raise limit.refusal(smallest, "that masks on weights reach here, with one weight in each layer,")
        # All layers fall to one weight together; a floor for some alone would favour these.
        return tuple(single if any(limit.cost.of(floored) > limit.most for limit in limits) else floored)


@dataclass(frozen=True)
class Threshold:
    """Keeps the highest values of all layers together, as many as every limit allows, ``fewest[i]`` of layer i first.

    Equal values are kept in the order of the layers. What is left of the tightest limit is less than one weight costs.
    """

    limits: tuple[Limit, ...]
    fewest: tuple[int, ...]

    def __call__(self, values: Sequence[Tensor], left: float) -> list[Tensor]:
        """Return which weights are kept when ``left`` of the way to the limits is still to go."""
        # The floor costs no branch: what must stay is above every threshold.
        raised = [_raised(value, count) for value, count in zip(values, self.fewest, strict=True)]
        sizes = [value.numel() for value in values]
        low, high = self._bracket(values, raised, left)
        flat = torch.cat(raised)
        # Everything above the bin is kept for certain, below it nothing; only the bin itself is sorted.
        kept = flat >= high
        counts = [int(part.sum()) for part in torch.split(kept, sizes)]
        doubtful = torch.nonzero((flat >= low) & ~kept).view(-1)
        doubtful = doubtful[flat[doubtful].argsort(descending=True, stable=True)]
        kept[doubtful[: self._fitting(doubtful, counts, sizes, left)]] = True
        return [part.view(value.shape) for part, value in zip(torch.split(kept, sizes), values, strict=True)]

    def _bracket(self, values: Sequence[Tensor], raised: Sequence[Tensor], left: float) -> tuple[float, float]:
        """Return two numbers that the threshold lies between, with few values between them.

        Sorting millions of values would take longer than a step; counting them in bins does not.
        """
        lowest = min(float(value.min()) for value in values)
        highest = max(float(value.max()) for value in values)
        # histc would fail on them too, but with words about a range that tell the user nothing.
        if not math.isfinite(highest - lowest):
            raise TrainingError("the masks or the weights are no longer finite: give a lower train.lr")
        # A bin must be wide enough for float32 to tell its edges apart.
        widest = max(highest, lowest + 0.01 * (abs(lowest) + abs(highest)) + 1e-6)
        edges = np.linspace(lowest, widest, BINS + 1)
        # Summed in float64: float32 tells whole numbers apart only up to 2²⁴, and large nets have more weights.
        bins = [torch.histc(value, BINS, edges[0], edges[-1]).double() for value in raised]
        above = torch.stack(bins).cpu().numpy()[:, ::-1].cumsum(1)[:, ::-1] + np.array(self.fewest)[:, None]
        fits = np.ones(BINS, dtype=bool)
        for limit in self.limits:
            fits &= limit.cost.fixed + np.array(limit.cost.each) @ above <= limit.at(left)
        first = BINS - int(fits.sum())
        # One bin more on both sides, should a value on an edge be counted on its other side.
        return (edges[first - 2] if first > 1 else -math.inf, edges[first + 1] if first + 1 < BINS else math.inf)

    def _fitting(self, doubtful: Tensor, counts: Sequence[int], sizes: Sequence[int], left: float) -> int:
        """Return how many of the ``doubtful``, in their order, fit beside the ``counts`` that are kept anyway."""
        ends = torch.tensor(sizes, device=doubtful.device).cumsum(0)
        layers = torch.bucketize(doubtful, ends, right=True)
        room = [len(doubtful)]
        for limit in self.limits:
            spent = torch.tensor(limit.cost.each, device=doubtful.device)[layers].cumsum(0)
            # Costs only add up along the order, so the weights that fit are a prefix.
            room.append(int((spent <= limit.at(left) - limit.cost.of(counts)).sum()))
        return min(room)


def _raised(value: Tensor, count: int) -> Tensor:
    """Return ``value`` flattened, its ``count`` highest raised above everything else."""
    flat = value.flatten().clone()
    flat[flat.topk(count).indices] = math.inf
    return flat


plugin = Weights
