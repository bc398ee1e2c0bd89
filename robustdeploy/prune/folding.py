"""Folding: channel masks multiplied into the parameters that scale a layer's outputs, so no activation is touched."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustdeploy.prune.groups import ChannelGroup
from robustdeploy.prune.information import Carrier


class Folding:
    """Which parameters and buffers of ``net`` carry which masks of ``groups``.

    These are the affine parameters of batch normalisation, a layer's own weights where none follows, and the gain of a
    shortcut without parameters.
    """

    def __init__(self, net: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        modules = dict(net.named_modules())
        self.carriers = _carriers(modules, groups)
        """The layers whose outputs the masks scale, once for each group that they are of."""
        mask_of = _mask_of(modules, self.carriers, [group.size for group in groups])
        self._modules = {name: modules[name.rpartition(".")[0]] for name in mask_of}
        shapes = {name: (-1, *[1] * (self._value(name).dim() - 1)) for name in mask_of}
        self._vectors = {name: len(of) for name, of in mask_of.items() if len(shapes[name]) == 1}
        self._of_vectors = torch.cat([torch.zeros(0, dtype=torch.int64), *(mask_of[name] for name in self._vectors)])
        self._others = {name: (of, shapes[name]) for name, of in mask_of.items() if name not in self._vectors}

    def folded(self, masks: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return what carries masks, by its name in the net, multiplied by them: ``masks`` has one vector per group.

        All vectors share one product; a net has dozens of them, and a call for each would cost more than its work.
        """
        factors = torch.cat([*masks, masks[0].new_ones(1)])
        folded: dict[str, Tensor] = {}
        if self._vectors:
            joined = torch.cat([self._value(name) for name in self._vectors])
            product = joined * factors.index_select(0, self._of_vectors.to(factors.device))
            folded |= zip(self._vectors, torch.split(product, list(self._vectors.values())), strict=True)
        for name, (index, shape) in self._others.items():
            folded[name] = self._value(name) * factors.index_select(0, index.to(factors.device)).view(shape)
        return folded

    def _value(self, name: str) -> Tensor:
        value: Tensor = getattr(self._modules[name], name.rpartition(".")[2])
        return value


def _carriers(modules: dict[str, nn.Module], groups: Sequence[ChannelGroup]) -> list[Carrier]:
    carriers: list[Carrier] = []
    for number, group in enumerate(groups):
        for member in group.members:
            if not member.masked or not (values := _values_of(modules[member.layer])):
                continue
            in_order = torch.equal(member.positions, member.channels)
            if in_order and all(len(member.positions) == group.size == len(value) for value in values.values()):
                carriers.append(Carrier(member.layer, number, None, None))
            else:
                device = next(iter(values.values())).device
                carriers.append(Carrier(member.layer, number, member.positions.to(device), member.channels.to(device)))
    return carriers


def _values_of(module: nn.Module) -> dict[str, Tensor]:
    """Return what scales the outputs of a layer, each with one entry of its first dimension for one output."""
    named = {kind: getattr(module, kind, None) for kind in ("weight", "bias", "gain")}
    return {kind: value for kind, value in named.items() if value is not None}


def _mask_of(modules: dict[str, nn.Module], carriers: Sequence[Carrier], sizes: Sequence[int]) -> dict[str, Tensor]:
    """Say for each output of what carries masks which mask scales it: its place among all groups' laid end to end.

    The place behind the last is that of outputs which none scales.
    """
    nothing, places = sum(sizes), torch.split(torch.arange(sum(sizes)), list(sizes))
    found: dict[str, Tensor] = {}
    for at in carriers:
        for kind, value in _values_of(modules[at.layer]).items():
            index = found.setdefault(f"{at.layer}.{kind}", torch.full((len(value),), nothing))
            if at.positions is None or at.channels is None:
                index[:] = places[at.group]
            else:
                index[at.positions.cpu()] = places[at.group][at.channels.cpu()]
    return found
