"""One-shot: drop the filters of smallest L1 norm from a trained net at once, as torch-pruning does it.

Li et al., "Pruning filters for efficient ConvNets", ICLR 2017, in the form that torch-pruning gives it (Fang et al.,
"DepGraph", CVPR 2023): the norms of all that is coupled to a channel are averaged, and every group of channels loses
the same share. Here it is what in-train pruning is compared with; only its rule for ChannelPad is ours.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence

import torch
import torch_pruning
from torch import nn

from robustdeploy.cost.module import evaluating, macs
from robustdeploy.errors import BudgetError
from robustdeploy.nets.channel_pad import ChannelPad, kept_index
from robustdeploy.prune.groups import Coupling
from robustdeploy.prune.rehearsal import find_groups

NEAR = 0.03
"""How far, as a fraction, the operations may be from those that were asked for."""


class PadRule(torch_pruning.BasePruningFunc):  # type: ignore[misc]
    """How torch-pruning removes channels of a ChannelPad, whose inputs and outputs are channels of their own."""

    def prune_out_channels(self, layer: ChannelPad, idxs: list[int]) -> ChannelPad:
        """Remove the outputs ``idxs``."""
        return _resized(layer, range(layer.in_channels), _others(layer.out_channels, idxs))

    def prune_in_channels(self, layer: ChannelPad, idxs: list[int]) -> ChannelPad:
        """Remove the inputs ``idxs``; outputs that showed them are zero from now on."""
        return _resized(layer, _others(layer.in_channels, idxs), range(layer.out_channels))

    def get_out_channels(self, layer: ChannelPad) -> int:
        """Return the number of outputs."""
        return layer.out_channels

    def get_in_channels(self, layer: ChannelPad) -> int:
        """Return the number of inputs."""
        return layer.in_channels


def _others(count: int, removed: list[int]) -> list[int]:
    gone = set(removed)
    return [channel for channel in range(count) if channel not in gone]


def _resized(layer: ChannelPad, inputs: range | list[int], outputs: range | list[int]) -> ChannelPad:
    index = kept_index(layer.index.tolist(), list(inputs), list(outputs))
    layer.resize(len(inputs), len(outputs), index)
    return layer


def pruned_once(net: nn.Module, image_shape: tuple[int, int, int], target: int) -> nn.Module:
    """Return a copy of ``net`` with at most ``target`` MACs and nearly as many; ``net`` itself stays as it is.

    All groups of channels keep the same share, as nearly as whole channels allow. A target that is missed by more than
    3 % is a BudgetError.
    """
    coupling = find_groups(net, image_shape)
    sizes = [group.size for group in coupling.groups]
    few, many = -1, sum(sizes) - len(sizes)
    smallest = _without(net, coupling, _kept(sizes, many), image_shape)
    while many - few > 1:  # the fewest removals that meet the target
        middle = (few + many) // 2
        tried = _without(net, coupling, _kept(sizes, middle), image_shape)
        if macs(tried, image_shape) <= target:
            many, smallest = middle, tried
        else:
            few = middle
    if not (1 - NEAR) * target < (reached := macs(smallest, image_shape)) <= target:
        raise BudgetError(f"equal shares of all groups lead to {reached:,} MACs where {target:,} were asked for")
    return smallest


def _kept(sizes: Sequence[int], removals: int) -> list[int]:
    """Return how many channels each group keeps after ``removals``, each from where the largest share is left."""
    kept = list(sizes)
    for _ in range(removals):
        kept[max(range(len(kept)), key=lambda place: kept[place] / sizes[place] if kept[place] > 1 else 0.0)] -= 1
    return kept


def _without(net: nn.Module, coupling: Coupling, kept: Sequence[int], image_shape: tuple[int, int, int]) -> nn.Module:
    """Return a copy of ``net`` in which each group has only its ``kept`` channels of largest norm."""
    smaller = copy.deepcopy(net).requires_grad_()
    # Half a channel more than is meant, so that rounding down cannot take another one. torch-pruning looks the share up
    # under one of the group's layers, so all of them get it.
    shares = {
        smaller.get_submodule(member.layer): max(0.0, 1 - (count + 0.5) / group.size)
        for group, count in zip(coupling.groups, kept, strict=True)
        for member in group.members
        if member.side == "out"
    }
    with evaluating(smaller), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch_pruning.BasePruner(
            smaller,
            torch.zeros(2, *image_shape, device=next(smaller.parameters()).device),
            importance=torch_pruning.importance.MagnitudeImportance(p=1),
            pruning_ratio=0.0,
            pruning_ratio_dict=shares,
            ignored_layers=[smaller.get_submodule(name) for name in coupling.whole],
            customized_pruners={ChannelPad: PadRule()},
            root_module_types=[nn.Conv2d, nn.Linear],
        ).step()
    return smaller
