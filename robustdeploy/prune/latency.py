"""Latency as a cost: what a profile foretells of any choice of channels, held against the device by measuring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import nn

from robustdeploy.core.profile import Profile
from robustdeploy.cost.layer_times import LayerTimes
from robustdeploy.errors import BudgetError
from robustdeploy.prune.groups import ChannelGroup
from robustdeploy.prune.layers import NetLayers, net_layers

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
TRIALS = 3
"""Choices that are measured at most: the first, and two more after the table was corrected."""
ENOUGH = 0.95
"""Share of the limit that is worth no further trial: channels come in steps, and so do times."""


@dataclass(frozen=True)
class LatencyGoal:
    """A limit on latency, as pruning follows it."""

    profile: Profile
    limit_us: float
    measure: Callable[[nn.Module], float] | None = None
    """Measures a compact net on the target, in turns with the dense one; its time over the dense net's."""

    def __deepcopy__(self, memo: object) -> LatencyGoal:
        """Return this: a masked net is copied to be tried out, and the device that it is for stays the same one."""
        return self


@dataclass
class LatencyCost:
    """Microseconds of a net, by the tables of a profile; ``correction`` is what a measurement has shown of them."""

    times: LayerTimes
    layers: NetLayers
    correction: float = field(default=1.0)

    def of(self, kept: Floats) -> Floats:
        """Return the cost of ``kept`` channels per group; a leading axis is a batch of choices."""
        told: Floats = self.correction * np.maximum(self.times.of(*self.layers.channels(kept)), 1e-3)
        return told

    def parts(self) -> list[Counts]:
        """Return no smaller parts: every group has a share in the one sum."""
        return []

    def blamed(self, kept: Floats, limit: float, share: float) -> npt.NDArray[np.bool_]:
        """Say which groups have a part in ``kept`` taking more than ``share`` of ``limit``: all, or none."""
        touched: npt.NDArray[np.bool_] = (self.layers.slope != 0).any((0, 1))
        return touched & bool(self.of(kept) / limit > share)


def latency_cost(
    net: nn.Module, groups: Sequence[ChannelGroup], image_shape: tuple[int, int, int], profile: Profile
) -> LatencyCost:
    """Return the latency of ``net`` as a function of what its groups keep.

    Raises BudgetError where the profile is of other layers.
    """
    layers = net_layers(net, groups, image_shape)
    inputs, outputs = layers.channels(layers.sizes)
    own = [*zip(layers.names, layers.kinds, inputs.tolist(), outputs.tolist(), strict=True)]
    held = [(layer.name, layer.kind, layer.inputs, layer.outputs) for layer in profile.layers]
    if own != held:
        other = next((a for a, b in zip(own, held, strict=False) if a != b), own[-1])
        raise BudgetError(
            f"the profile of {profile.target} is of a net with other layers (here: {other[0]}, {other[1]}); run "
            "`robustdeploy profile` for this recipe"
        )
    return LatencyCost(LayerTimes(profile), layers)
