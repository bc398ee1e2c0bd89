"""Activation memory of a net as a function of how many channels each group keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from robustdeploy.cost.memory import Trace
from robustdeploy.nets.size import size_of
from robustdeploy.prune.groups import ChannelGroup
from robustdeploy.prune.operations import Floats


@dataclass(frozen=True)
class Peaks:
    """The most, over moments m, of ``constant[m] + slope[m]·kept``: what the feature maps alive then take."""

    constant: Floats
    slope: Floats

    def of(self, kept: Floats) -> Floats:
        """Return the bytes for ``kept`` channels per group; a leading axis is a batch of choices."""
        most: Floats = (self.constant + kept @ self.slope.T).max(-1)
        return most

    def parts(self) -> list[npt.NDArray[np.int64]]:
        """Return per moment the groups whose maps exist then, those of most bytes per channel first."""
        return [np.argsort(-row, kind="stable")[: np.count_nonzero(row)] for row in self.slope]

    def blamed(self, kept: Floats, limit: float, share: float) -> npt.NDArray[np.bool_]:
        """Say which groups have maps at a moment when ``kept`` channels take more than ``share`` of ``limit``."""
        above = (self.constant + kept @ self.slope.T) / limit > share
        groups: npt.NDArray[np.bool_] = (self.slope[above] != 0).any(0)
        return groups


def peak_model(net: nn.Module, groups: Sequence[ChannelGroup], image_shape: tuple[int, int, int]) -> Peaks:
    """Build the model of the peak activation memory of ``net``; raises BudgetError when it cannot be traced.

    What exists together is found once. How the maps shrink with a group is found by tracing the net with one channel
    fewer in it, which is exact for maps of one size per channel.
    """
    trace = Trace(net, image_shape)
    dense = np.array(trace.activations.sizes, dtype=np.float64)
    outputs = _outputs(net, groups)
    slope = np.zeros((len(dense), len(groups)))
    for column, group in enumerate(groups):
        if group.size > 1:  # one channel alone always stays
            # One fewer is enough to tell the slope, as bytes are linear in channels. All other sizes follow without a
            # trace.
            slope[:, column] = dense - np.array(trace.sizes(_without_one(outputs, group)), dtype=np.float64)
    there = np.zeros((len(trace.activations.moments), len(dense)))
    for moment, places in enumerate(trace.activations.moments):
        there[moment, list(places)] = 1
    constant = dense - slope @ np.array([group.size for group in groups], dtype=np.float64)
    return _telling(there @ constant, there @ slope)


def _outputs(net: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, int]:
    """Return how many outputs each layer has that a group touches; one that only reads the group keeps its own."""
    outputs = {}
    for layer in {member.layer for group in groups for member in group.members}:
        size = size_of(net.get_submodule(layer))
        assert size is not None  # what a group touches can be resized
        outputs[layer] = size.outputs
    return outputs


def _without_one(outputs: Mapping[str, int], group: ChannelGroup) -> dict[str, int]:
    """Return how many outputs each layer has left when the last channel of ``group`` is removed."""
    left = dict(outputs)
    for member in group.members:
        if member.side == "out":
            left[member.layer] -= int((member.channels == group.size - 1).sum())
    return left


def _telling(constant: Floats, slope: Floats) -> Peaks:
    """Leave out moments that never take more than another one, whatever is kept."""
    rows = np.unique(np.column_stack([constant, slope]), axis=0)  # no two are equal, so >= all along is more somewhere
    covered = (rows[None, :, :] >= rows[:, None, :]).all(-1).sum(1) > 1  # by another than itself
    return Peaks(rows[~covered, 0].copy(), rows[~covered, 1:].copy())
