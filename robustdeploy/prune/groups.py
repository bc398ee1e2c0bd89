"""Channel groups: the channels that must be kept or removed together, in any net.

Residual additions couple the outputs of several layers, normalisation and depthwise convolution follow their input,
and a flattened feature map spreads one channel over many inputs of the layer behind it. ``follow`` finds which places
belong together; here they become groups, and it is settled where a group's masks go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from robustdeploy.cost.module import evaluating
from robustdeploy.errors import TrainingError
from robustdeploy.nets.channel_pad import ChannelPad
from robustdeploy.nets.normalised import kind_of
from robustdeploy.nets.size import NORMALISATIONS, WEIGHTED, size_of
from robustdeploy.prune.follow import OUTPUT, follow
from robustdeploy.prune.positions import Positions, Side
from robustdeploy.prune.trail import Node, Read, Trail

COMPUTED = "its weight is computed from other parameters"
"""Why a layer stays whole, and takes no masks on single weights either."""
PRODUCERS = (*WEIGHTED, ChannelPad)
"""Layers whose outputs are channels of their own."""


@dataclass(frozen=True)
class Member:
    """Where a group touches one layer: position ``positions[i]`` of that side belongs to channel ``channels[i]``."""

    layer: str
    side: Side
    positions: Tensor
    channels: Tensor
    masked: bool
    """True where a mask must be applied, to what scales the layer's outputs or to its input weights, for a masked
    channel to add exactly nothing wherever another layer reads it. Of layers in a row only the last needs one, if
    nothing else reads the others, and of the two sides of a product one: a mask that is applied twice counts twice in
    its own gradient, and the one hides what the other would say."""


@dataclass(frozen=True)
class ChannelGroup:
    """Channels ``0 … size-1`` that are kept or removed together wherever ``members`` touches them."""

    name: str
    size: int
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Coupling:
    """All prunable groups of a net, and the layers that keep all or some of their channels, with the reason why."""

    groups: tuple[ChannelGroup, ...]
    whole: dict[str, str]


def told_whole(whole: Mapping[str, str]) -> str:
    """Say which layers stay whole, for the end of a sentence; that the net's output does needs no saying."""
    told: dict[str, list[str]] = {}
    for layer, reason in whole.items():
        if reason != OUTPUT:
            told.setdefault(reason, []).append(layer)
    parts = "; ".join(f"{', '.join(layers)} ({reason})" for reason, layers in told.items())
    return f"; what stays whole: {own_names(parts)}" if parts else ""


def own_names(text: str) -> str:
    """Return a sentence with the names of layers as the net's author knows them, not as ``Normalised`` does."""
    # ``Normalised`` holds the user's net as ``net``; users know no layer by that prefix.
    return re.sub(r" in net(?![\w.])", "", re.sub(r"(?<![\w.])net\.", "", text))


def traced_groups(net: nn.Module, image_shape: tuple[int, int, int]) -> Coupling:
    """Follow the channels of ``net`` on one pair of images and return its groups, which are not tried out yet.

    Raises TrainingError when the net cannot be run, with its own words.
    """
    # One set of positions for both passes, so that what training mode couples holds in eval mode as well.
    positions = Positions()
    trails = _trails(net, image_shape, positions)
    # A shared parameter has one shape for all its layers, and their channels need not be the same ones.
    for module, other in _sharing(net).items():
        name = trails[0].names[module]
        positions.fix(positions.all_of(name), f"it is coupled to {name}, which shares a parameter with {other}")
    return _coupling(positions, trails)


def computed_weights(net: nn.Module, image_shape: tuple[int, int, int]) -> frozenset[str]:
    """Return the layers that multiply by something computed from parameters, not by a weight as it is."""
    trails = _trails(net, image_shape, Positions())
    modules = trails[0].modules
    # By parameter and not by name: a layer that shares an altered weight multiplies by the same zeros.
    altered = {modules[name]._parameters.get("weight") for trail in trails for name in trail.altered} | {None}
    layers = {name: module for name, module in modules.items() if isinstance(module, WEIGHTED)}
    return frozenset(name for name, module in layers.items() if module._parameters.get("weight") in altered)


def _trails(net: nn.Module, image_shape: tuple[int, int, int], positions: Positions) -> list[Trail]:
    """Follow the channels through a forward pass in eval mode, and in training mode if that runs more layers."""
    device = next(net.parameters()).device
    # Two images, since batch normalisation in training mode may refuse one.
    images = torch.rand(2, *image_shape, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        with evaluating(net), _plain_attention(), _as_it_was(net):
            trails = [follow(net, images, positions)]
            if _unmet(net, trails[0]):  # an auxiliary head, for instance
                trails.append(follow(net.train(), images, positions))
    except Exception as problem:
        raise TrainingError(
            f"the channels of this {kind_of(net)} cannot be followed, as its forward pass fails on two images "
            f"({type(problem).__name__}: {problem})"
        ) from problem
    return trails


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Have attention run operation by operation, not in one that hides its layers."""
    # In eval mode torch runs a whole encoder layer as one operator, and its linear layers would never be seen.
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _as_it_was(net: nn.Module) -> Iterator[None]:
    """Give the buffers and torch's generators what they had, which a pass in training mode changes."""
    # Running statistics and step counters move in training mode; a user's trained net must come out as it went in.
    held = [(buffer, buffer.clone()) for buffer in net.buffers()]
    with torch.random.fork_rng():
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in held:
                    buffer.copy_(value)


def _unmet(net: nn.Module, trail: Trail) -> bool:
    """Whether the weight of some layer was not used."""
    met = {node.layer for node in trail.nodes}
    layers = ((name, module) for name, module in net.named_modules() if isinstance(module, WEIGHTED))
    return any(name not in met and module._parameters.get("weight") is not None for name, module in layers)


def _sharing(net: nn.Module) -> dict[nn.Module, str]:
    """Name, for each module that shares a parameter with others, one of these."""
    owners: dict[nn.Parameter, list[tuple[str, nn.Module]]] = {}
    for name, module in net.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(parameter, []).append((name, module))
    several = [those for those in owners.values() if len(those) > 1]
    return {module: next(n for n, other in those if other is not module) for those in several for _, module in those}


class _Class:
    """Places of layers that stay or go together, as one channel."""

    def __init__(self, root: int) -> None:
        self.root = root
        self.places: dict[tuple[str, Side], list[int]] = {}
        self.nodes: list[list[Node]] = []
        """Per trail, the tensors that it is in."""

    # A group is what lies in the same places and tensors. Channels that part anywhere need masks of their own places.
    def signature(self) -> object:
        """Return what is the same for channels of one group."""
        counts = tuple((place, len(at)) for place, at in sorted(self.places.items()))
        return counts, tuple(id(node) for nodes in self.nodes for node in nodes)


def _classes(positions: Positions, trails: Sequence[Trail]) -> dict[int, _Class]:
    roots, classes = positions.roots(), dict[int, _Class]()
    for place, its in positions.sides().items():
        for at, root in enumerate(its.tolist()):
            classes.setdefault(root, _Class(root)).places.setdefault(place, []).append(at)
    for number, trail in enumerate(trails):
        for found in classes.values():
            found.nodes.append([])
        for node in trail.nodes:
            for root in np.unique(roots[node.labels.numpy()]).tolist():
                classes[root].nodes[number].append(node)
    return classes


def _coupling(positions: Positions, trails: Sequence[Trail]) -> Coupling:
    modules, reads = trails[0].modules, [trail.reads for trail in trails]
    order = _order(trails)
    whole = _Whole(modules)
    alike: dict[object, list[_Class]] = {}
    for found in _classes(positions, trails).values():
        # A class without a producer is an input of the net or a constant's; there is no layer that could stop making
        # it.
        producers = [layer for layer, side in found.places if side == "out" and isinstance(modules[layer], PRODUCERS)]
        if not producers:
            continue
        if reason := positions.why_fixed(found.root):
            whole.add(found, producers, reason)
        else:
            alike.setdefault(found.signature(), []).append(found)
    groups: list[tuple[tuple[int, int], ChannelGroup]] = []
    for those in alike.values():
        outs = {layer for layer, side in those[0].places if side == "out"}
        # The name must not depend on the order of a set, or checkpoints of two processes would name groups differently.
        root = min((layer for layer in outs if isinstance(modules[layer], PRODUCERS)), key=order.__getitem__)
        # Sorted, so that the kept indices of a group are those of its root layer's own channels.
        those.sort(key=lambda found: found.places[root, "out"])
        masked = _masked(those[0], reads, {layer for layer in outs if _scales(modules[layer])}, modules)
        # One channel cannot be chosen among; removing it would remove the layer.
        if len(those) == 1:
            masked = positions.why_joined(those[0].root) or "it is a single channel"
        if isinstance(masked, str):
            for found in those:
                whole.add(found, [layer for layer in outs if isinstance(modules[layer], PRODUCERS)], masked)
            continue
        groups.append(((order[root], those[0].places[root, "out"][0]), _group(root, those, masked, order)))
    found_groups = _named([group for _, group in sorted(groups, key=lambda pair: pair[0])])
    return Coupling(tuple(found_groups), whole.told())


def _order(trails: Sequence[Trail]) -> dict[str, int]:
    """Number the layers in the order of a walk back from the scores; groups are named and listed by it."""
    walked = [node.layer for trail in trails for node in trail.backwards() if node.layer]
    return {name: number for number, name in enumerate(dict.fromkeys([*walked, *trails[0].modules]))}


class _Whole:
    """Collects which channels of which layers stay, and why."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules
        self._stay: dict[str, dict[str, int]] = {}
        for name, module in modules.items():
            # A parametrised layer computes its weight anew in each pass, so no resized parameter would stay in place.
            if isinstance(module, WEIGHTED) and module._parameters.get("weight") is None:
                size = size_of(module)
                self._stay[name] = {COMPUTED: size.outputs if size else 0}

    def add(self, found: _Class, layers: Sequence[str], reason: str) -> None:
        """Note that a channel stays in ``layers``."""
        for layer in layers:
            counts = self._stay.setdefault(layer, {})
            # One layer may keep channels for several reasons, and the most frequent one is told.
            counts[reason] = counts.get(reason, 0) + len(found.places[layer, "out"])

    def told(self) -> dict[str, str]:
        """Return a reason for each layer, and how many of its channels stay where it is not all of them."""
        told = {}
        for layer, reasons in self._stay.items():
            size, stay = size_of(self._modules[layer]), sum(reasons.values())
            reason = max(reasons, key=reasons.__getitem__)
            part = size is not None and stay < size.outputs
            told[layer] = f"{stay} of its {size.outputs} channels stay: {reason}" if size and part else reason
        return told


def _group(root: str, those: Sequence[_Class], masked: set[tuple[str, Side]], order: Mapping[str, int]) -> ChannelGroup:
    members = []
    for layer, side in sorted(those[0].places, key=lambda place: (order[place[0]], place[1] == "in")):
        pairs = sorted((at, channel) for channel, one in enumerate(those) for at in one.places[layer, side])
        # Sorted by place, so that a layer all of whose places are its channels in order is told by comparing the two.
        at, channels = torch.tensor(pairs).T.contiguous()
        members.append(Member(layer, side, at, channels, (layer, side) in masked))
    return ChannelGroup(root, len(those), tuple(members))


def _named(groups: Sequence[ChannelGroup]) -> list[ChannelGroup]:
    """Give every group a name of its own: its first layer's, with a number where that layer has several."""
    seen: dict[str, int] = {}
    named = []
    for group in groups:
        seen[group.name] = seen.get(group.name, 0) + 1
        number = seen[group.name]
        named.append(group if number == 1 else replace(group, name=f"{group.name}#{number}"))
    return named


def _scales(module: nn.Module) -> bool:
    """Whether a layer has something that can make its outputs zero."""
    if isinstance(module, ChannelPad):
        return module.gain is not None
    # A normalisation without affine parameters has nothing to fold a mask into; the layer before must carry it.
    return isinstance(module, (*WEIGHTED, *NORMALISATIONS)) and getattr(module, "weight", None) is not None


def _masked(
    found: _Class,
    reads: Sequence[Sequence[Read]],
    carriers: set[str],
    modules: Mapping[str, nn.Module],
) -> set[tuple[str, Side]] | str:
    """Return where the masks of a channel go, so that whatever reads it reads nothing of it; or why that cannot be.

    They scale the outputs of as few layers as it takes. A reader that meets something all the same, because an
    activation behind them makes another constant of zero, has them on its own input weights.
    """
    # Each forward pass by itself: a mask must reach every reader in eval mode and in training mode.
    paths = [_Path(found, nodes, those) for nodes, those in zip(found.nodes, reads, strict=True)]
    if not any(path.reads for path in paths):
        return "the scores do not depend on it"
    # First with all carriers masked. What is not zero even then, as behind a sigmoid, no mask before it can silence.
    met = [read for path in paths for read in path.not_zero(carriers)]
    for read in met:
        if not isinstance(modules.get(read.layer), WEIGHTED):
            where = f"{read.layer} reads it" if read.layer else "channels are summed"
            return f"a mask cannot make it zero where {where}"
    behind = {read.layer for read in met}
    for path in paths:
        path.reads = [read for read in path.reads if read.layer not in behind]
    needed = [node.layer for nodes in found.nodes for node in nodes if node.layer in carriers]
    # Drop carriers greedily from the first one on, so that of layers in a row the last keeps the mask.
    for layer in dict.fromkeys(needed):
        others = [other for other in needed if other != layer]
        if (others or behind) and not any(path.not_zero(set(others)) for path in paths):
            needed = others
    return {(layer, "out") for layer in needed} | {(layer, "in") for layer in behind}


class _Path:
    """The tensors of one forward pass that a channel is in, in order, and what reads it there."""

    def __init__(self, found: _Class, nodes: Sequence[Node], reads: Sequence[Read]) -> None:
        self._nodes = nodes
        within = set(nodes)
        self.reads = [read for read in reads if read.node in within]

    def not_zero(self, masked: set[str]) -> list[Read]:
        """Return what reads something else than zero when the outputs of the layers ``masked`` are zero."""
        zero: dict[Node, bool] = {}
        for node in self._nodes:
            flags = tuple(None if before is None else zero.get(before) for before in node.inputs)
            # Nodes come in the order of the pass, so all inputs of a node have their flag already.
            zero[node] = node.layer in masked or node.keeps_zero(flags)
        return [read for read in self.reads if not zero[read.node]]
