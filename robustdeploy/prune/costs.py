"""Costs of a net under pruning, as functions of how many channels each group keeps, beside what its budget allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import nn

from robustdeploy.core.amount import absolute
from robustdeploy.core.recipe import Budget
from robustdeploy.cost.memory import peak_bytes, without_values
from robustdeploy.cost.module import params
from robustdeploy.errors import BudgetError
from robustdeploy.nets.normalised import kind_of
from robustdeploy.prune.groups import ChannelGroup
from robustdeploy.prune.latency import LatencyGoal, latency_cost
from robustdeploy.prune.operations import Floats, parameter_model
from robustdeploy.prune.peaks import peak_model
from robustdeploy.prune.probing import operation_model, random_counts, smaller_net

NAMES = {"ops": "operations", "params": "parameters", "memory": "activation memory", "latency": "latency"}
"""What the limits of a budget are called in a sentence."""
UNITS = {"ops": "MACs", "params": "parameters", "memory": "bytes", "latency": "us"}


class Cost(Protocol):
    """One cost; it never falls when a group keeps more, but for latency, which goes up and down a staircase."""

    def of(self, kept: Floats) -> Floats:
        """Return the cost of ``kept`` channels per group; a leading axis is a batch of choices."""
        ...

    def parts(self) -> list[npt.NDArray[np.int64]]:
        """Return sets of groups that may fill the limit without the others; none where all of them always count."""
        ...

    def blamed(self, kept: Floats, limit: float, share: float) -> npt.NDArray[np.bool_]:
        """Say which groups have a part in ``kept`` using more than ``share`` of ``limit``."""
        ...


@dataclass(frozen=True)
class CostModel:
    """The costs by name, what they are for the dense net, and the limits of those that have one.

    All limits together are one number, the utilisation: the largest of cost over limit. A budget is met when that is at
    most 1, and used up when it is near 1.
    """

    costs: Mapping[str, Cost]
    dense: Mapping[str, float]
    limits: Mapping[str, float]

    def of(self, kept: Floats) -> dict[str, float]:
        """Return every cost of one choice: ``ops`` in MACs, ``params``, ``memory`` in bytes."""
        return {name: float(cost.of(kept)) for name, cost in self.costs.items()}

    def utilisation(self, kept: Floats) -> Floats:
        """Return the largest of cost over limit; a leading axis is a batch of choices. Without limits it is 0."""
        used = [self.costs[name].of(kept) / limit for name, limit in self.limits.items()]
        # The zeros stand for a budget without limits, of which reduce would refuse the empty list.
        highest: Floats = np.maximum.reduce([np.zeros(kept.shape[:-1]), *used])
        return highest

    def utilisation_but(self, left_out: str, kept: Floats) -> float:
        """Return the largest of cost over limit of one choice without one of the limits."""
        return max((float(self.costs[n].of(kept)) / m for n, m in self.limits.items() if n != left_out), default=0.0)

    def blamed(self, kept: Floats, utilisation: float) -> npt.NDArray[np.bool_]:
        """Say which groups have a part in ``kept`` going beyond ``utilisation``."""
        parts = [self.costs[name].blamed(kept, limit, utilisation) for name, limit in self.limits.items()]
        groups: npt.NDArray[np.bool_] = np.logical_or.reduce([np.zeros(kept.shape, dtype=bool), *parts])
        return groups

    @property
    def steps(self) -> bool:
        """Whether a cost moves in steps of its own, between which no choice of channels lands."""
        return "latency" in self.limits

    @property
    def binding(self) -> list[str]:
        """The limits that the dense net does not keep."""
        return [name for name, limit in self.limits.items() if self.dense[name] > limit]


def cost_model(
    net: nn.Module,
    groups: Sequence[ChannelGroup],
    image_shape: tuple[int, int, int],
    budget: Budget,
    timing: LatencyGoal | None = None,
) -> CostModel:
    """Model the operations and parameters of ``net``, and activation memory and latency where those are limited.

    Raises BudgetError when a limited cost cannot be modelled.
    """
    costs: dict[str, Cost] = {
        # Operations and parameters are modelled even without a limit on them: every log tells them.
        "ops": operation_model(net, groups, image_shape),
        "params": parameter_model(net, groups),
    }
    # Not every net can be traced for its memory, and one that is not limited must not keep such a net from training.
    if budget.memory is not None:
        costs["memory"] = peak_model(net, groups, image_shape)
    if timing is not None:
        costs["latency"] = latency_cost(net, groups, image_shape, timing.profile)
    everything = np.array([group.size for group in groups], dtype=np.float64)
    dense = {name: float(cost.of(everything)) for name, cost in costs.items()}
    limits = {name: absolute(amount, dense[name]) for name, amount in budget.amounts.items()}
    if timing is not None:
        limits["latency"] = timing.limit_us
    model = CostModel(costs, dense, limits)
    _check(model, net, groups, image_shape)
    return model


def _check(model: CostModel, net: nn.Module, groups: Sequence[ChannelGroup], image_shape: tuple[int, int, int]) -> None:
    """Count parameters and memory of smaller nets, so that a wrong model fails here and not after training."""
    counted: dict[str, Callable[[nn.Module], int]] = {
        "params": params,
        "memory": partial(peak_bytes, image_shape=image_shape),
    }
    limited = [name for name in counted if name in model.limits]
    blank = without_values(net)
    # Operations are tried out where they are modelled (see probing.py), so only the other two are left to try.
    for counts in random_counts(groups) if limited else ():
        small = smaller_net(blank, groups, counts)
        for name in limited:
            told, found = float(model.costs[name].of(counts.astype(np.float64))), counted[name](small)
            # The models are sums of products of floats, the counts whole numbers.
            if round(told) != found:
                raise BudgetError(
                    f"the {NAMES[name]} of this {kind_of(net)} do not follow from its channel counts (expected "
                    f"{told:,.0f} {UNITS[name]} of a smaller form, found {found:,}), so budget.{name} cannot be kept; "
                    "limit budget.ops instead"
                )
