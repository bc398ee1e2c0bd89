"""How channels pass layers: convolution, product with a weight, normalisation."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from robustdeploy.nets.size import WEIGHTED
from robustdeploy.prune.call import Call
from robustdeploy.prune.labels import along, combined, varied, vector
from robustdeploy.prune.trail import Node, Trail, Weight, every, never

_SAME = frozenset({"detach", "alias", "clone", "_to_copy", "lift_fresh"})
_TURNS = frozenset({"t", "transpose", "permute"})
PRODUCTS = frozenset({"mm", "addmm", "linear"})


def use_weight(trail: Trail, call: Call) -> None:
    """Follow an operation that reads a layer's weight."""
    (source, *others) = (tensor for tensor in call.tensors if tensor in trail.weights)
    weight: Weight = trail.weights[source]
    # Autocast, ``detach`` and the like give the layer's weight again under another tensor.
    if call.name in _SAME and not others:
        trail.weights[call.gives[0]] = weight
    elif call.name in _TURNS and source.dim() == 2:
        trail.weights[call.gives[0]] = Weight(weight.layer, weight.transposed != _turns(call))
    elif call.name == "convolution" and not others and call.bound["weight"] is source:
        convolve(trail, call)
    elif call.name in PRODUCTS and not others:
        multiply(trail, call)
    else:
        # A zero in this weight need not be a zero in what is multiplied, so masks on single weights must keep off too.
        trail.altered.update(trail.weights[tensor].layer for tensor in (source, *others))
        trail.keep_all(call, f"the weight of {weight.layer} is used in the operation {call.name}{trail.at}")


def _turns(call: Call) -> bool:
    """Whether a view of a matrix has its rows and columns exchanged."""
    if call.name == "permute":
        # Only matrices come here; their first dimension is the second one, counted from either end, if rows become
        # columns.
        return int(call.bound["dims"][0]) % 2 == 1
    return call.name == "t" or (int(call.bound["dim0"]) - int(call.bound["dim1"])) % 2 == 1


def convolve(trail: Trail, call: Call) -> None:
    """Follow a convolution, transposed or not, of any number of groups."""
    bound, (output,), positions = call.bound, call.gives, trail.positions
    weight = trail.weight_of(bound["weight"])
    if weight is None:
        foreign_weight(trail, call, bound["weight"])
        return
    layer, groups, read = weight.layer, int(bound["groups"]), trail.of(bound["input"])
    channels = vector(positions, read.labels, 1)
    out = positions.of(layer, "out", output.shape[1])
    if bound["bias"] is not None:
        positions.join(out, trail.of(bound["bias"]).labels)
    inputs: tuple[Node | None, ...] = ()
    keeps_zero = never
    why = f"it is coupled to the grouped convolution {layer}"
    if groups == 1:
        trail.read(layer, channels, read.node)
    # Of two ways to prune a grouped convolution this takes the one that leaves more choices.
    elif min(len(channels), len(out)) // groups >= groups:
        # Every group of the convolution loses channels of the same numbers, and all groups stay.
        for labels in (channels, out):
            rows = labels.view(groups, -1)
            positions.join(rows[:1], rows, why)
        trail.read(layer, channels, read.node)
    else:
        # Whole groups of the convolution go; in a depthwise one these are single channels.
        rows = out.view(groups, -1)
        positions.join(rows[:, :1], rows, why)
        positions.join(rows[:, :1], channels.view(groups, -1), why)
        # Here a group that reads zeros gives zeros, so that a mask further up does for what lies behind.
        inputs, keeps_zero = (read.node,), never if bound["bias"] is not None else every
    trail.give(output, along(out, 1, output.shape), inputs, keeps_zero, layer, read.node)


def foreign_weight(trail: Trail, call: Call, weight: Tensor) -> None:
    """Keep what meets a weight that is no layer's own parameter."""
    here = trail.where[-1]
    lowest = int(trail.of(weight).labels.min())
    if here and isinstance(trail.modules[here], WEIGHTED):
        reason = f"it is coupled to {here}, whose weight is computed from other parameters"
    elif lowest < -1:
        reason = trail.positions.reason(lowest)
    else:
        reason = f"it is coupled to a weight that the forward pass{trail.at} computes"
    trail.keep_all(call, reason)


def multiply(trail: Trail, call: Call) -> None:
    """Follow a product with a linear layer's weight, or with another matrix."""
    bound, (output,), positions = call.bound, call.gives, trail.positions
    if call.name == "linear":
        maps, matrix, bias = bound["input"], bound["weight"], bound.get("bias")
    elif call.name == "addmm":
        maps, matrix, bias = bound["mat1"], bound["mat2"], bound["self"]
    else:
        maps, matrix, bias = bound["self"], bound["mat2"], None
    weight = trail.weight_of(matrix)
    # ``linear`` transposes its weight by itself, the matrix products do not; the other way round it is no layer's
    # product.
    if weight is None or weight.transposed == (call.name == "linear"):
        foreign_weight(trail, call, matrix)
        return
    read = trail.of(maps)
    # Of tokens the channels come last, and so they do in a flattened map.
    trail.read(weight.layer, vector(positions, read.labels, maps.dim() - 1), read.node)
    out = positions.of(weight.layer, "out", output.shape[-1])
    if bias is not None:
        positions.join(out, trail.of(bias).labels)
    trail.give(output, along(out, output.dim() - 1, output.shape), (), never, weight.layer, read.node)


def normalise(trail: Trail, call: Call) -> None:
    """Follow batch normalisation, and instance normalisation, which torch computes as one."""
    read = trail.of(call.bound["input"])
    channels = vector(trail.positions, read.labels, 1)
    layer = _scaled_by(trail, call, channels)
    # Operators without this argument say in their name whether they use the batch's statistics.
    by_batch = bool(call.bound.get("training", "no_training" not in call.name))
    plain = call.bound.get("weight") is None and by_batch  # zero less its mean is zero
    _normalised(trail, call, read.labels, read.node, every if plain else never, layer)


def normalise_groups(trail: Trail, call: Call) -> None:
    """Follow group normalisation: a group is normalised as a whole, and goes as a whole."""
    read, groups, here = trail.of(call.bound["input"]), int(call.bound["group"]), trail.where[-1]
    channels = vector(trail.positions, read.labels, 1)
    if not (here and isinstance(trail.modules[here], nn.GroupNorm)):
        trail.positions.fix(channels, f"the forward pass{trail.at} normalises it in {groups} groups")
    rows = channels.view(groups, -1)
    trail.positions.join(rows[:, :1], rows, f"{here} normalises {rows.shape[1]} of its channels together")
    layer = _scaled_by(trail, call, channels)
    plain = call.bound.get("weight") is None
    _normalised(trail, call, read.labels, read.node, every if plain else never, layer)


def normalise_layers(trail: Trail, call: Call) -> None:
    """Follow layer normalisation."""
    read, positions = trail.of(call.bound["input"]), trail.positions
    first = read.labels.dim() - len(call.bound["normalized_shape"])
    dims = [dim for dim in varied(read.labels) if dim >= first]
    labels = read.labels
    if dims:
        positions.fix(labels, f"the normalisation{trail.at} takes all its channels together")
    for kind in ("weight", "bias"):
        if (tensor := call.bound.get(kind)) is not None:
            labels = combined(positions, labels, trail.of(tensor).labels)
    _normalised(trail, call, labels, read.node, every if call.bound.get("weight") is None else never, "")


def _scaled_by(trail: Trail, call: Call, channels: Tensor) -> str:
    """Join channels with what normalisation knows of each, and return the layer whose weight scales them."""
    layer = ""
    for kind in ("weight", "bias", "running_mean", "running_var"):
        if (tensor := call.bound.get(kind)) is not None:
            labels = trail.of(tensor).labels
            trail.positions.join(channels, labels)
            if kind == "weight":
                layer = trail.positions.owner(int(labels[0]))
    return layer


def _normalised(trail: Trail, call: Call, labels: Tensor, node: Node | None, keeps_zero: Any, layer: str) -> None:
    trail.give(call.gives[0], labels, (node,), keeps_zero, layer)
    # Saved means and variances are for the backward pass; nothing in the forward pass reads them.
    for statistic in call.gives[1:]:
        trail.free(statistic)
