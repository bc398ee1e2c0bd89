"""How channels pass what moves numbers: views, slices, concatenations, shuffles, padding, copies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from robustdeploy.prune.call import Call
from robustdeploy.prune.labels import joined_along, narrowed, varied, vector
from robustdeploy.prune.positions import FREE
from robustdeploy.prune.trail import Mark, Trail, every, never

_VIEWS = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias"})
_SPLITS = frozenset({"split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "split_copy"})
_NAMING = frozenset({"roll", "index_select", "index", "gather", "take", "diagonal"})
"""What names channels by their numbers."""
_SHUFFLES = frozenset({"channel_shuffle", "native_channel_shuffle"})
_PLAIN = frozenset({"permute", "transpose", "t", "expand", "unsqueeze", "squeeze", "flip", "repeat", "unfold"})
_PLAIN |= {"pixel_shuffle", "pixel_unshuffle", "cat", "stack", "slice", "select", "unbind"}
MOVES = _VIEWS | _SPLITS | _NAMING | _SHUFFLES | _PLAIN
"""What can be done to labels as it is done to numbers."""


def move(trail: Trail, call: Call) -> None:
    """Do to the labels what the operation does to the numbers."""
    # Whole numbers are indices; they say where channels go and hold none themselves.
    marks = [trail.of(tensor) for tensor in call.tensors if tensor.is_floating_point()]
    if not marks:
        for tensor in call.gives:
            trail.free(tensor)
        return
    # ``reshape`` and not the operator itself: labels are expanded tensors, of which ``view`` refuses most.
    if call.name in _VIEWS:
        (output,) = call.gives
        viewed = marks[0].labels.reshape(output.shape)
        _split_up(trail, marks[0].labels, viewed)
        trail.give(output, viewed, (marks[0].node,), every)
        return
    _join_by_number(trail, call, marks[0].labels)
    labels = iter([_sized(trail, m.labels) if call.name in ("cat", "stack") else m.labels for m in marks])

    def own(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        # Labels lie on the CPU, whatever device the net is on.
        return next(labels) if leaf.is_floating_point() else leaf.cpu()

    args, kwargs = tree_map(own, (call.args, call.kwargs))
    # The operator itself is run on the labels: whatever it does to numbers, by whatever arguments, it does to them.
    moved = [leaf for leaf in tree_leaves(call.func(*args, **kwargs)) if isinstance(leaf, Tensor)]
    for tensor, result in zip(call.gives, moved, strict=True):
        trail.give(tensor, result, [mark.node for mark in marks], every)


def _sized(trail: Trail, labels: Tensor) -> Tensor:
    """Return labels in which what was free has a fixed size, since it takes places of its own."""
    return torch.where(labels == FREE, trail.positions.because(f"constants are put beside it{trail.at}"), labels)


def _join_by_number(trail: Trail, call: Call, labels: Tensor) -> None:
    """Join channels, or have them stay, where the code tells them apart by their numbers."""
    differs = varied(labels)
    dim = call.dim(labels.dim())
    # A shuffle sends channel k of each group to one run of places. Equal groups stay equal only if all lose the same k.
    if call.name in _SHUFFLES and 1 in differs:
        rows = vector(trail.positions, labels, 1).view(int(call.bound["groups"]), -1)
        trail.positions.join(rows[:1], rows, f"the shuffle{trail.at} has {len(rows)} groups of channels")
    # The code holds these numbers as constants; with fewer channels they would name others, or none.
    elif call.name in _NAMING and set(differs) & _named(call, dim, labels.dim()):
        trail.positions.fix(labels, f"the operation {call.name}{trail.at} names channels by number")
    elif dim not in differs or dim is None:
        return
    elif call.name in ("select", "unbind"):
        trail.positions.fix(labels, f"the operation {call.name}{trail.at} names channels by number")
    elif call.name == "slice":
        _take_part(trail, labels, dim, *call.span(labels.shape[dim]))
    elif call.name in _SPLITS:
        parts = [tensor.shape[dim] for tensor in call.gives]
        if len(set(parts)) > 1:
            sizes = " and ".join(map(str, parts))
            trail.positions.fix(labels, f"the forward pass{trail.at} splits it into parts of {sizes} channels")
        else:
            _take_part(trail, labels, dim, 0, parts[0], 1)


def _named(call: Call, dim: int | None, of: int) -> set[int]:
    """Return the dimensions in which the operation names places by their numbers."""
    if call.name == "index":
        return {at for at, index in enumerate(call.bound["indices"]) if index is not None}
    if call.name == "roll":
        return {d % of for d in call.bound.get("dims", [])} or set(range(of))
    return set(range(of)) if dim is None else {dim}


def _take_part(trail: Trail, labels: Tensor, dim: int, start: int, end: int, step: int) -> None:
    """Join the parts of which one is taken: halves stay halves when both lose channels of the same numbers."""
    size, length = labels.shape[dim], end - start
    rows = labels.movedim(dim, 0)
    # A slice of everything names no number that could go wrong.
    if length == size and step == 1:
        return
    if step == 1 and length > 0 and size % length == 0 and start % length == 0:
        rows = rows.reshape(-1, length, *rows.shape[1:])
        trail.positions.join(rows[:1], rows, f"the forward pass{trail.at} takes it in {len(rows)} equal parts")
    elif step > 1 and end == size and size % step == 0:
        rows = rows.reshape(-1, step, *rows.shape[1:])
        trail.positions.join(rows[:, :1], rows, f"the forward pass{trail.at} takes one in {step} of its channels")
    else:
        taken = f"takes its channels {start} to {end - 1} of {size}"
        trail.positions.fix(labels, f"the forward pass{trail.at} {taken}")


def _split_up(trail: Trail, before: Tensor, after: Tensor) -> None:
    """Join channels along the smaller dimensions that a view makes of one: their numbers are part of the code."""
    dims = varied(after)
    if len(dims) > len(varied(before)):
        # The code gives a view all its sizes but one. The largest is taken for the free one; the rehearsal tells where
        # it is not.
        largest = max(dims, key=lambda dim: (after.shape[dim], dim))
        sizes = "×".join(str(after.shape[dim]) for dim in dims)
        why = f"a view{trail.at} makes {sizes} of its channels"
        joined_along(trail.positions, after, [dim for dim in dims if dim != largest], why)


def pad(trail: Trail, call: Call) -> None:
    """Follow padding: around a map it is of the same channel, beside channels it has a fixed size."""
    read, (output,), pads = trail.of(call.bound["self"]), call.gives, list(call.bound["pad"])
    differs, labels = varied(read.labels), narrowed(read.labels)
    for number in range(len(pads) // 2):
        two = pads[2 * number : 2 * number + 2]
        if read.labels.dim() - 1 - number in differs and any(two):
            reason = trail.positions.because(f"padding{trail.at} puts channels beside it")
            # Padding with constants beside channels, as in option A of He et al. 2016 written by hand.
            labels = torch.ops.aten.constant_pad_nd(labels, [0] * (2 * number) + two, reason)
    # Any other value than 0 makes a masked channel a frame of constants.
    trail.give(output, labels.expand(output.shape), (read.node,), never if call.bound.get("value") else every)


def copy(trail: Trail, call: Call) -> None:
    """Follow what is written into a tensor, or into a part of one."""
    target, source = call.tensors[:2]
    into, read = trail.of(target), trail.of(source)
    # The usual buffer that is made empty and filled part by part. An expanded label tensor has no memory of its own to
    # fill.
    if bool((into.labels == FREE).all()) and 0 not in into.labels.stride():
        into.labels.copy_(read.labels)
    else:
        trail.positions.join(into.labels, read.labels)
    # Writing into a slice changes the tensor that it is a slice of, which is what will be read.
    base = target if target._base is None else target._base
    before = trail.of(base)
    node = trail.node(before.labels, (before.node, read.node), every)
    trail.put(base, Mark(before.labels, node))
    if target is not base:
        trail.put(target, Mark(into.labels, node))
