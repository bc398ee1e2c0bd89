"""Channel groups: the channels that must be kept or removed together, in any traceable net.

Residual additions couple the outputs of several layers, batch normalisation and depthwise convolution follow their
input, and a flattened feature map spreads one channel over many inputs of the layer behind it. torch-pruning's
dependency graph (Fang et al., "DepGraph", CVPR 2023) finds all of that; this is the only module that knows it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from robustdeploy.cost.module import evaluating
from robustdeploy.errors import TrainingError
from robustdeploy.nets.channel_pad import ChannelPad

Normalisation = (nn.BatchNorm1d, nn.BatchNorm2d)
Producer = (nn.Conv2d, nn.Linear, ChannelPad)
"""Layers whose outputs start a group of their own."""

_STEPS = 10
"""Steps of the walk that finds a group, per coupling in the net, after which it is taken to have no end. DenseNet201's
largest group takes 0.8, those of ResNets, EfficientNets, RegNets and vision transformers fewer."""
_WIDER = 4
"""A group that gets so many times as wide as the widest layer is taken for one that grows without an end."""


@dataclass(frozen=True)
class Member:
    """Where a group touches one layer: position ``positions[i]`` of that side belongs to channel ``channels[i]``."""

    layer: str
    side: Literal["out", "in"]
    positions: Tensor
    channels: Tensor
    masked: bool
    """True where a zero mask must be applied for the channel to be exactly zero wherever another layer reads it. Of
    layers in a row only the last needs one, if nothing else reads the others, and of the two sides of a product one: a
    mask that is applied twice counts twice in its own gradient, and the one hides what the other would say."""


@dataclass(frozen=True)
class ChannelGroup:
    """Channels ``0 … size-1`` that are kept or removed together wherever ``members`` touches them."""

    name: str
    size: int
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Coupling:
    """All prunable groups of a net, and the layers left whole with the reason why."""

    groups: tuple[ChannelGroup, ...]
    whole: dict[str, str]


def find_groups(net: nn.Module, image_shape: tuple[int, int, int]) -> Coupling:
    """Trace ``net`` on one pair of images and return its channel groups.

    Raises TrainingError when the net cannot be traced, with the tracer's own words.
    """
    names = {module: name for name, module in net.named_modules()}
    sharing = _sharing(net)
    groups: list[ChannelGroup] = []
    whole: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's, of what it leaves whole or cannot see through
        graph = _dependency_graph(net, image_shape)
        for found in _walked(net, graph):
            root = names[found[0][0].target.module]
            if reason := _why_whole(found, graph, names, sharing):
                whole[root] = reason
                continue
            members = tuple(_members(found, graph, names))
            groups.append(ChannelGroup(root, len(found[0][1]), members))
    return Coupling(tuple(groups), whole)


def _dependency_graph(net: nn.Module, image_shape: tuple[int, int, int]) -> Any:
    import torch_pruning

    class PadRule(torch_pruning.BasePruningFunc):  # type: ignore[misc]
        """Tell the tracer that a channel pad's inputs and outputs are separate channels; nothing is pruned by it.

        The two pruning functions must differ: the tracer takes one function for both as a sign of coupling.
        """

        def prune_out_channels(self, layer: ChannelPad, idxs: list[int]) -> ChannelPad:
            return layer

        def prune_in_channels(self, layer: ChannelPad, idxs: list[int]) -> ChannelPad:
            return layer

        def get_out_channels(self, layer: ChannelPad) -> int:
            return layer.out_channels

        def get_in_channels(self, layer: ChannelPad) -> int:
            return layer.in_channels

    flags = [(parameter, parameter.requires_grad) for parameter in net.parameters()]
    device = next(net.parameters()).device
    try:
        for parameter, _ in flags:
            parameter.requires_grad_()
        with evaluating(net), torch.enable_grad():
            return torch_pruning.DependencyGraph().build_dependency(
                net,
                torch.zeros(2, *image_shape, device=device),
                customized_pruners={ChannelPad: PadRule()},
                verbose=False,
            )
    except Exception as problem:
        raise _untraceable(net, f"{type(problem).__name__}: {problem}") from problem
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _untraceable(net: nn.Module, why: str) -> TrainingError:
    return TrainingError(
        f"the channel groups of this {type(net).__name__} cannot be traced ({why}); "
        "a net can be pruned when its forward pass is plain tensor code on one input"
    )


def _walked(net: nn.Module, graph: Any) -> Iterator[Any]:
    """Yield the tracer's groups; raise TrainingError for one that has no end."""
    walk = _Walk(net, graph)
    for found in graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear, ChannelPad]):
        yield found
        walk.restart()


class _Walk:
    """Watches the tracer's walk over its graph, which for some nets, such as Swin, has no end and fills the memory."""

    def __init__(self, net: nn.Module, graph: Any) -> None:
        couplings = [coupling for node in graph.module2node.values() for coupling in node.dependencies]
        self._net = net
        self._steps = 0
        self._most_steps = max(1000, _STEPS * len(couplings))
        self._most_channels = _WIDER * max(size for parameter in net.parameters() for size in parameter.shape[:2])
        for coupling in couplings:
            coupling.index_mapping = _Watched(coupling.index_mapping, self)

    def restart(self) -> None:
        """The walk has come to its end; count the next one."""
        self._steps = 0

    def step(self, channels: list[Any]) -> list[Any]:
        """Return the channels that a coupling has led to; raise TrainingError after too many, or too many steps."""
        self._steps += 1
        if self._steps > self._most_steps or len(channels) > self._most_channels:
            raise _untraceable(self._net, f"a group reaches ever more channels, {len(channels)} at step {self._steps}")
        return channels


class _Watched(list[Any]):
    """The maps from channels on one side of a coupling to those on the other, and behind them a look at the walk."""

    def __init__(self, maps: list[Any], walk: _Walk) -> None:
        super().__init__(maps)
        self._walk = walk

    def __iter__(self) -> Iterator[Any]:
        yield from super().__iter__()
        yield self._walk.step


def _why_whole(found: Any, graph: Any, names: dict[nn.Module, str], sharing: dict[nn.Module, str]) -> str | None:
    """Say why a group must keep all its channels, or None when it can be pruned."""
    for item in found:
        node, module = item.dep.target, item.dep.target.module
        out = graph.is_out_channel_pruning_fn(item.dep.handler)
        if out and not node.outputs:
            return "its channels are the net's output"
        if isinstance(module, nn.Parameter):
            return "it is coupled to a bare parameter"
        if module not in names:
            continue
        if isinstance(module, nn.Conv2d) and module.groups > 1 and not _depthwise(module):
            return f"it is coupled to the grouped convolution {names[module]}"
        if isinstance(module, Normalisation) and not module.affine:
            return f"it is coupled to {names[module]}, a normalisation without weights that could carry a mask"
        if any(True for _ in module.parameters()) and not isinstance(module, (*Normalisation, *Producer)):
            return f"it is coupled to {names[module]}, a {type(module).__name__}"
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module._parameters.get("weight") is None:
            return f"it is coupled to {names[module]}, whose weight is computed from other parameters"
        if module in sharing:
            return f"it is coupled to {names[module]}, which shares a parameter with {sharing[module]}"
    return None


def _sharing(net: nn.Module) -> dict[nn.Module, str]:
    """Name, for each module that shares a parameter with others, one of these."""
    owners: dict[nn.Parameter, list[tuple[str, nn.Module]]] = {}
    for name, module in net.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(parameter, []).append((name, module))
    several = [those for those in owners.values() if len(those) > 1]
    return {module: next(n for n, other in those if other is not module) for those in several for _, module in those}


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels


def _members(found: Any, graph: Any, names: dict[nn.Module, str]) -> Iterator[Member]:
    sides: dict[tuple[str, Literal["out", "in"]], Any] = {}
    for item in found:
        module = item.dep.target.module
        if not isinstance(module, (*Normalisation, *Producer)) or module not in names:
            continue
        out = graph.is_out_channel_pruning_fn(item.dep.handler)
        side: Literal["out", "in"] = "out" if out or _depthwise(module) or isinstance(module, Normalisation) else "in"
        sides.setdefault((names[module], side), item)
    masked = _masked([item.dep.target for (_, side), item in sides.items() if side == "out"])
    for (layer, side), item in sides.items():
        positions, channels = torch.tensor(list(item.idxs)), torch.tensor(list(item.root_idxs))
        yield Member(layer, side, positions, channels, side == "out" and item.dep.target in masked)


def _masked(writers: list[Any]) -> list[Any]:
    """Return those layers of a group that a mask must be applied to, so that whatever reads its channel reads zero."""
    masked = [node for node in writers if _reaches_a_reader(node, [])]
    for node in reversed(masked):
        others = [other for other in masked if other is not node]
        if not _reaches_a_reader(node, others):
            masked = others
    return masked


def _reaches_a_reader(node: Any, masked: list[Any]) -> bool:
    """Whether something reads this layer other than through what carries the mask as well.

    That is normalisation and depthwise convolution, whose outputs are the same channels again, so that they or what
    comes behind them are masked; and a product with what is zero when the layers ``masked`` are.
    """
    waiting, seen = [node], {node}
    while waiting:
        at = waiting.pop()
        if not at.outputs:
            return True  # the net's output
        for after in at.outputs:
            if isinstance(after.module, Normalisation) or _depthwise(after.module):
                continue
            if isinstance(after.module, Producer):
                return True
            if _operation(after) == "Mul" and any(_is_zero(i, masked) for i in after.inputs if i is not at):
                continue
            if after not in seen:
                seen.add(after)
                waiting.append(after)
    return False


_KEEPS_ZERO = {"Relu", "Hardtanh", "LeakyRelu", "Elu", "Silu", "Hardswish", "Gelu", "Tanh"}
_KEEPS_ZERO |= {"Mean", "AvgPool2D", "AdaptiveAvgPool2D", "MaxPool2DWithIndices"}
"""Operations that make zero of zero, as autograd calls them."""


def _is_zero(node: Any, masked: list[Any]) -> bool:
    """Whether a channel is certainly zero here when the layers ``masked`` multiply it by zero."""
    if node in masked:
        return True
    inputs = (_is_zero(before, masked) for before in node.inputs)
    match _operation(node):
        case "Mul":
            return any(inputs)
        case "Add":
            return len(node.inputs) > 1 and all(inputs)
        case operation:
            return operation in _KEEPS_ZERO and all(inputs)


def _operation(node: Any) -> str:
    """Name the tensor operation of a node as autograd does, without ``Backward0``; empty for a layer."""
    if isinstance(node.module, (*Normalisation, *Producer)) or node.grad_fn is None:
        return ""
    return str(node.grad_fn.name()).partition("Backward")[0]
