"""Multiples: what it saves on a device to keep channels in multiples, by its profile, at equal operations."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
from torch import nn

from robustdeploy.core.profile import MultipleTime, Profile
from robustdeploy.core.recipe import Budget
from robustdeploy.errors import BudgetError
from robustdeploy.prune.budget import Counts, Limits, exact_counts, limits_meeting
from robustdeploy.prune.costs import CostModel, cost_model
from robustdeploy.prune.groups import ChannelGroup
from robustdeploy.prune.latency import latency_cost

MULTIPLES = (1, 2, 4, 8, 16, 32)
SHARES = (0.7, 0.5, 0.3)
"""Of the operations."""
CHOICES = 6
SPREAD = 0.3
"""Of the logarithm of what a group is worth: trained masks share the operations out about so unevenly."""
FLOOR = 0.1


def times_by_multiple(
    net: nn.Module, groups: Sequence[ChannelGroup], image_shape: tuple[int, int, int], profile: Profile
) -> tuple[MultipleTime, ...]:
    """Return for each multiple the foretold time of pruned nets, on average over several shares of the operations."""
    latency, sizes = latency_cost(net, groups, image_shape, profile), [group.size for group in groups]
    model = cost_model(net, groups, image_shape, Budget())
    multiples = [each for each in MULTIPLES if 2 * each <= max(sizes)]
    times = []
    for share in SHARES:
        limited = replace(model, limits={"ops": share * model.dense["ops"]})
        nets = [_pruned(limited, sizes, multiple) for multiple in multiples]
        if all(nets):
            times.append([float(latency.of(np.array(its, dtype=float)).mean()) / profile.dense_us for its in nets])
    if not times:  # so little of this net can be pruned that no share is reached
        return ()
    means = np.mean(times, axis=0)
    return tuple(
        MultipleTime(multiple=each, time=round(float(time), 4)) for each, time in zip(multiples, means, strict=True)
    )


def _pruned(model: CostModel, sizes: Sequence[int], multiple: int) -> list[Counts]:
    """Return several choices of channels that use the limit up, where there are any."""
    found = []
    with suppress(BudgetError):
        limits = limits_meeting(Budget(preferred_multiple=multiple), model, sizes, FLOOR)
        for number in range(CHOICES):
            found.append(shared_out(model, limits, number))
    return found


def shared_out(model: CostModel, limits: Limits, number: int) -> Counts:
    """Return the channels that the groups keep for the way of that number to share a budget out between them."""
    sizes = limits.most.tolist()
    worth = np.exp(np.random.default_rng(number).normal(0, SPREAD, len(sizes)))
    values = [its * size / np.arange(1, size + 1) for its, size in zip(worth, sizes, strict=True)]
    return exact_counts(model, values, limits)
