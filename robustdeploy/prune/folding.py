"""Folding: channel masks multiplied into the parameters that scale a layer's outputs, so no activation is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from robustdeploy.nets.channel_pad import ChannelPad
from robustdeploy.nets.size import TRANSPOSED, Size, size_of
from robustdeploy.prune.groups import ChannelGroup
from robustdeploy.prune.information import Carrier


class Folding:
    """Which parameters and buffers of ``net`` carry which masks of ``groups``.

    These are the affine parameters of normalisation, a layer's own weights where none follows, the gain of a shortcut
    without parameters, and the input weights of a layer that would read something else than zero.
    """

    def __init__(self, net: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        modules = dict(net.named_modules())
        self.carriers = _carriers(modules, groups)
        """The layers whose outputs or inputs the masks scale, once for each group that they are of."""
        masks_of = _masks_of(modules, self.carriers, [group.size for group in groups])
        self._modules = {name: modules[name.rpartition(".")[0]] for name in masks_of}
        vectors = {name: of[0] for name, of in masks_of.items() if len(of) == 1 and of[0].dim() == 1}
        self._vectors = {name: len(of) for name, of in vectors.items()}
        self._of_vectors = torch.cat([torch.zeros(0, dtype=torch.int64), *vectors.values()])
        self._others = {name: of for name, of in masks_of.items() if name not in vectors}

    def folded(self, masks: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return what carries masks, by its name in the net, multiplied by them: ``masks`` has one vector per group.

        All vectors share one product; a net has dozens of them, and a call for each would cost more than its work.
        """
        # The 1 at the end is what numbers without a mask are multiplied by, so no branch is needed for them.
        factors = torch.cat([*masks, masks[0].new_ones(1)])
        folded: dict[str, Tensor] = {}
        if self._vectors:
            joined = torch.cat([self._value(name) for name in self._vectors])
            product = joined * factors.index_select(0, self._of_vectors.to(factors.device))
            folded |= zip(self._vectors, torch.split(product, list(self._vectors.values())), strict=True)
        for name, indices in self._others.items():
            value = self._value(name)
            for index in indices:
                value = value * factors.index_select(0, index.flatten().to(factors.device)).view(index.shape)
            folded[name] = value
        return folded

    def _value(self, name: str) -> Tensor:
        value: Tensor = getattr(self._modules[name], name.rpartition(".")[2])
        return value


def _carriers(modules: Mapping[str, nn.Module], groups: Sequence[ChannelGroup]) -> list[Carrier]:
    carriers: list[Carrier] = []
    for number, group in enumerate(groups):
        for member in group.members:
            if not member.masked or not (values := _values_of(modules[member.layer])):
                continue
            width = _width(modules[member.layer], member.side)
            # Most layers belong to one group whole; then no index is kept and no channel gathered in each step.
            if len(member.positions) == group.size == width and torch.equal(member.positions, member.channels):
                carriers.append(Carrier(member.layer, number, None, None, member.side))
            else:
                device = next(iter(values.values())).device
                at, of = member.positions.to(device), member.channels.to(device)
                carriers.append(Carrier(member.layer, number, at, of, member.side))
    return carriers


def _width(module: nn.Module, side: str) -> int:
    size = size_of(module)
    assert isinstance(size, Size)
    return size.outputs if side == "out" else size.inputs


def _values_of(module: nn.Module) -> dict[str, Tensor]:
    """Return what scales the outputs of a layer."""
    # The bias too: a masked channel with a bias left would be a constant, not zero.
    named = {kind: getattr(module, kind, None) for kind in ("weight", "bias", "gain")}
    return {kind: value for kind, value in named.items() if value is not None}


def _masks_of(
    modules: Mapping[str, nn.Module], carriers: Sequence[Carrier], sizes: Sequence[int]
) -> dict[str, list[Tensor]]:
    """Say for each number of what carries masks which mask scales it: its place among all groups' laid end to end.

    The place behind the last is that of what none scales. Where the masks of a layer's outputs and of its inputs meet
    in one weight, that has two; each has as many dimensions as the weight, with size 1 where it is the same all along.
    """
    nothing, places = sum(sizes), torch.split(torch.arange(sum(sizes)), list(sizes))
    channels: dict[tuple[str, str], Tensor] = {}
    for at in carriers:
        width = _width(modules[at.layer], at.side)
        index = channels.setdefault((at.layer, at.side), torch.full((width,), nothing))
        if at.positions is None or at.channels is None:
            index[:] = places[at.group]
        else:
            index[at.positions.cpu()] = places[at.group][at.channels.cpu()]
    found: dict[str, list[Tensor]] = {}
    for (layer, side), index in channels.items():
        for kind, value in _values_of(modules[layer]).items():
            if value.dim() > 1:
                pairs = index[_channel_of(modules[layer], side)]
                found.setdefault(f"{layer}.{kind}", []).append(pairs.view(*pairs.shape, *[1] * (value.dim() - 2)))
            # A bias belongs to outputs alone; masks on input weights must leave it.
            elif side == "out":
                found.setdefault(f"{layer}.{kind}", []).append(index)
    return found


def _channel_of(module: nn.Module, side: str) -> Tensor:
    """Return which channel of a side each pair of the weight's first two dimensions is of, as far as they matter."""
    size = size_of(module)
    assert isinstance(size, Size)
    assert not isinstance(module, ChannelPad)
    first, second = (size.inputs, size.outputs) if isinstance(module, TRANSPOSED) else (size.outputs, size.inputs)
    if (side == "in") == isinstance(module, TRANSPOSED):
        return torch.arange(first)[:, None]
    # In a grouped convolution the second dimension counts inputs inside a group; which channels these are depends on
    # the row.
    of_group = torch.arange(second).view(size.groups, -1)
    return of_group.repeat_interleave(first // size.groups, 0) if size.groups > 1 else of_group
