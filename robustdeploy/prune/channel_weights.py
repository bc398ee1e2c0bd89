"""Channel weights: which numbers of a net make which channel, so that what is known of weights tells of channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustdeploy.nets.size import NORMALISATIONS, TRANSPOSED, WEIGHTED, Size, size_of
from robustdeploy.prune.groups import ChannelGroup


@dataclass(frozen=True)
class ChannelWeights:
    """Parameters of a net, and for each of their outputs the channel that it is, all groups laid end to end."""

    names: tuple[str, ...]
    channels: tuple[Tensor, ...]
    """Per parameter, shaped to be broadcast over it; what no channel makes has the number behind the last."""
    sizes: tuple[int, ...]
    """Channels of each group."""

    @classmethod
    def of_filters(cls, net: nn.Module, groups: Sequence[ChannelGroup]) -> ChannelWeights:
        """Return the weights of all layers that make the channels of ``groups``."""
        return cls._made(net, groups, WEIGHTED)

    @classmethod
    def of_norms(cls, net: nn.Module, groups: Sequence[ChannelGroup]) -> ChannelWeights:
        """Return the scales (γ) of all normalisation that the channels of ``groups`` go through."""
        return cls._made(net, groups, NORMALISATIONS)

    @classmethod
    def _made(
        cls, net: nn.Module, groups: Sequence[ChannelGroup], kinds: tuple[type[nn.Module], ...]
    ) -> ChannelWeights:
        modules, sizes = dict(net.named_modules()), tuple(group.size for group in groups)
        starts = [sum(sizes[:number]) for number in range(len(sizes))]
        found: dict[str, Tensor] = {}
        for group, start in zip(groups, starts, strict=True):
            for member in group.members:
                module = modules[member.layer]
                if member.side != "out" or not isinstance(module, kinds) or module._parameters.get("weight") is None:
                    continue
                outputs = _size(module).outputs
                index = found.setdefault(f"{member.layer}.weight", torch.full((outputs,), sum(sizes)))
                index[member.positions] = start + member.channels
        device = next(net.parameters()).device
        shaped = [_shaped(index, modules[name.rpartition(".")[0]]).to(device) for name, index in found.items()]
        return cls(tuple(found), tuple(shaped), sizes)

    def without(self, groups: Sequence[ChannelGroup]) -> list[str]:
        """Return the names of the groups that none of these numbers makes a channel of."""
        made = {channel for each in self.channels for channel in each.flatten().tolist()}
        every = torch.split(torch.arange(sum(self.sizes)), list(self.sizes))
        return [group.name for group, own in zip(groups, every, strict=True) if not made.issuperset(own.tolist())]

    def numbers(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Return, per group, how many numbers of ``values``, shaped like the parameters, each channel has."""
        return self.summed([torch.ones_like(value) for value in values])

    def summed(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Return, per group, the sum over each channel of ``values``, which are shaped like the parameters."""
        total = torch.zeros(sum(self.sizes) + 1, device=values[0].device, dtype=torch.float64)
        for value, index in zip(values, self.channels, strict=True):
            total.index_add_(0, index.expand_as(value).flatten(), value.detach().double().flatten())
        return list(torch.split(total[:-1], list(self.sizes)))

    def masks(self, keeps: Sequence[Tensor], values: Sequence[Tensor]) -> list[Tensor]:
        """Return, per parameter, which of its numbers are of channels that are kept (bool per group in ``keeps``)."""
        every = torch.cat([*keeps, torch.ones(1, dtype=torch.bool, device=keeps[0].device)])
        return [every[index].expand_as(value) for value, index in zip(values, self.channels, strict=True)]


def _size(module: nn.Module) -> Size:
    size = size_of(module)
    assert size is not None
    return size


def _shaped(index: Tensor, module: nn.Module) -> Tensor:
    """Return the channels of a layer's outputs as they lie in its weight."""
    weight = module._parameters["weight"]
    assert weight is not None
    if not isinstance(module, TRANSPOSED):
        return index.view(-1, *[1] * (weight.dim() - 1))
    # Inputs × outputs of a group: which outputs these are hangs on the group that the input is of.
    of_group = index.view(module.groups, -1).repeat_interleave(weight.shape[0] // module.groups, 0)
    return of_group.view(*of_group.shape, *[1] * (weight.dim() - 2))
