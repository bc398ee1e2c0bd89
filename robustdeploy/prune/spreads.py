"""Spreads: how a budget is shared out over the layers of a net whose single weights are masked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from robustdeploy.errors import TrainingError
from robustdeploy.nets.size import TRANSPOSED
from robustdeploy.prune.weight_budget import Limit, Maskable

BINS = 4096
"""In which values are counted to find the threshold, before the few in its own bin are sorted."""


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


def highest(value: Tensor, count: int) -> Tensor:
    """Return the mask of the ``count`` highest entries of ``value``, shaped like it."""
    chosen = torch.zeros(value.numel(), dtype=torch.bool, device=value.device)
    # By place and not by threshold: with equal values at the cut a threshold would keep too many.
    chosen[value.flatten().topk(count).indices] = True
    return chosen.view(value.shape)


@dataclass(frozen=True)
class Uniform:
    """Keeps the same share of every layer, the largest within all limits; one unit at least.

    ``units[i]`` weights of layer i go or stay together and cost as one; unset, each weight is a unit.
    """

    limits: tuple[Limit, ...]
    sizes: tuple[int, ...]
    units: tuple[int, ...] | None = None

    def __call__(self, values: Sequence[Tensor], left: float) -> list[Tensor]:
        """Return which units are kept when ``left`` of the way to the limits is still to go; one value is of one."""
        return [highest(value, count) for value, count in zip(values, self.counts(left), strict=True)]

    def counts(self, left: float = 0.0) -> tuple[int, ...]:
        """Return how many units of each layer stay."""
        return _uniform_counts(self.limits, self.sizes, self.units or tuple(1 for _ in self.sizes), left)


@lru_cache(maxsize=64)
def _uniform_counts(
    limits: tuple[Limit, ...], sizes: tuple[int, ...], units: tuple[int, ...], left: float
) -> tuple[int, ...]:
    totals = [size // unit for size, unit in zip(sizes, units, strict=True)]

    def counts(share: float) -> tuple[int, ...]:
        # A layer without any weight would cut the net in two, so one stays in each.
        return tuple(max(1, math.floor(share * total)) for total in totals)

    def fits(share: float) -> bool:
        kept = [count * unit for count, unit in zip(counts(share), units, strict=True)]
        return all(limit.cost.of(kept) <= limit.at(left) for limit in limits)

    # The cost never falls as the share rises, so halving the doubtful stretch finds the largest share that fits. A
    # share of 1 is asked for first: halving would only come close to it, and one weight would be lost for nothing.
    low, high = (1.0, 1.0) if fits(1.0) else (0.0, 1.0)
    # Narrower than this the counts at both ends differ by at most one weight in any layer.
    while high - low > 1 / (4 * max(totals)):
        low, high = ((low + high) / 2, high) if fits((low + high) / 2) else (low, (low + high) / 2)
    return counts(low)


def scaled_counts(
    shares: Callable[[float], Sequence[float]], sizes: Sequence[int], limits: Sequence[Limit], left: float
) -> list[int]:
    """Return the counts of the highest position in [0, 1] at which the ``shares`` of all layers fit the limits.

    No share may fall as the position rises. What rounding down leaves is filled, weight by weight.
    """

    def exact(at: float) -> list[float]:
        return [min(1.0, share) * size for share, size in zip(shares(at), sizes, strict=True)]

    def fits(counts: Sequence[int]) -> bool:
        return all(limit.cost.of(counts) <= limit.at(left) for limit in limits)

    def floored(at: float) -> list[int]:
        return [max(1, math.floor(each)) for each in exact(at)]

    if fits(floored(1.0)):
        return floored(1.0)
    if not fits(floored(0.0)):
        # Shares that do not fall to nothing may be too much for a small budget; one weight each is not.
        return scaled_counts(lambda at: [at * share for share in shares(0.0)], sizes, limits, left)
    low, high = 0.0, 1.0
    for _ in range(60):
        low, high = ((low + high) / 2, high) if fits(floored((low + high) / 2)) else (low, (low + high) / 2)
    counts, wanted = floored(low), exact(low)
    # A share may rise in many layers at once; those nearest to one weight more get it first.
    for number in sorted(range(len(sizes)), key=lambda number: counts[number] - wanted[number]):
        more = [count + (other == number) for other, count in enumerate(counts)]
        if counts[number] < sizes[number] and fits(more):
            counts = more
    return counts


@dataclass(frozen=True)
class Erk:
    """Keeps of each layer a share like (inputs + outputs + sides of the filter) over their product, as RigL does.

    Small layers stay denser (Erdős–Rényi kernel; Mocanu et al. 2018, Evci et al., ICML 2020).
    """

    limits: tuple[Limit, ...]
    shapes: tuple[tuple[int, ...], ...]

    def __call__(self, values: Sequence[Tensor], left: float) -> list[Tensor]:
        """Return which weights are kept when ``left`` of the way to the limits is still to go."""
        counts = _erk_counts(self.limits, self.shapes, left)
        return [highest(value, count) for value, count in zip(values, counts, strict=True)]


@lru_cache(maxsize=64)
def _erk_counts(limits: tuple[Limit, ...], shapes: tuple[tuple[int, ...], ...], left: float) -> tuple[int, ...]:
    raw = [sum(shape) / math.prod(shape) for shape in shapes]
    # At 1 even the layer of the lowest share is whole.
    shares = [each / min(raw) for each in raw]
    sizes = [math.prod(shape) for shape in shapes]
    return tuple(scaled_counts(lambda at: [at * share for share in shares], sizes, limits, left))


SPREADS = Literal["global", "uniform", "erk"]


def spread_of(name: SPREADS, layers: Maskable, tensors: Sequence[Tensor]) -> Threshold | Uniform | Erk:
    """Return the spread called ``name`` over ``layers``, whose weights are ``tensors``."""
    if name == "global":
        return Threshold(layers.limits, tuple(1 for _ in layers.weights))
    if name == "uniform":
        return Uniform(layers.limits, tuple(layers.sizes))
    return Erk(layers.limits, tuple(tuple(tensor.shape) for tensor in tensors))


@dataclass(frozen=True)
class Columns:
    """Keeps the same share of each layer's columns, those of the largest root mean square.

    A column is all that is multiplied by one input at one position of the filter: the weights of all outputs.
    """

    uniform: Uniform
    outputs: tuple[int, ...]
    """Per layer, along which dimension of its weight the outputs lie."""

    @classmethod
    def over(cls, net: nn.Module, layers: Maskable) -> Columns:
        """Return the spread for ``layers`` of ``net``; BudgetError when one column per layer is more than allowed."""
        modules = [net.get_submodule(weight.layer) for weight in layers.weights]
        outputs = tuple(1 if isinstance(module, TRANSPOSED) else 0 for module in modules)
        shapes = [net.get_parameter(weight.name).shape for weight in layers.weights]
        units = tuple(shape[dim] for shape, dim in zip(shapes, outputs, strict=True))
        for limit in layers.limits:
            if (smallest := limit.cost.of(units)) > limit.most:
                raise limit.refusal(smallest, "that masks on columns reach here, with one in each layer,")
        return cls(Uniform(layers.limits, tuple(layers.sizes), units), outputs)

    def __call__(self, values: Sequence[Tensor], left: float) -> list[Tensor]:
        """Return which weights are kept when ``left`` of the way to the limits is still to go."""
        norms = [value.square().sum(dim, keepdim=True) for value, dim in zip(values, self.outputs, strict=True)]
        kept = self.uniform(norms, left)
        return [keep.expand_as(value).clone() for keep, value in zip(kept, values, strict=True)]
