"""How channels pass what computes without weights: number by number, over space, over dimensions."""

from __future__ import annotations

import re

from robustdeploy.prune.call import Call
from robustdeploy.prune.labels import combined, joined_along, varied
from robustdeploy.prune.trail import Read, Trail, every, never

SPATIAL = ("pool", "upsample", "reflection_pad", "replication_pad", "grid_sampler")
"""Parts of the names of operations that work inside a map."""
REDUCES = frozenset({"mean", "sum", "amax", "amin", "max", "min", "prod", "var", "std", "linalg_vector_norm", "norm"})
REDUCES |= {"logsumexp", "nansum", "median", "nanmean", "var_mean", "aminmax", "std_mean"}
SOFTMAX = frozenset({"_softmax", "_log_softmax", "_safe_softmax"})
_SUMS = frozenset({"sum", "linalg_vector_norm"})
"""Reductions that zeros add nothing to."""


def combine(trail: Trail, call: Call) -> None:
    """Follow an operation that works number by number: the channels that meet belong together."""
    marks = [trail.of(tensor) for tensor in call.tensors]
    labels = marks[0].labels
    for mark in marks[1:]:
        labels = combined(trail.positions, labels, mark.labels)
    # Tried, not looked up: GELU keeps zero and a sigmoid does not, and a constant added to a channel does not either.
    keeps_zero = call.keeps_zero()
    for output in call.gives:
        if output.shape == labels.shape:
            trail.give(output, labels, [mark.node for mark in marks], keeps_zero)
        else:
            trail.free(output)


def over_space(trail: Trail, call: Call) -> None:
    """Follow pooling, resizing and the like: each map by itself, over its last one to three dimensions."""
    read = trail.of(call.tensors[0])
    # The names say in how many dimensions an operator works. Where one does not, all behind batch and channels are
    # space.
    told = re.search(r"([123])d", call.name)
    space = int(told.group(1)) if told else read.labels.dim() - 2
    first = read.labels.dim() - space
    inside = [dim for dim in varied(read.labels) if dim >= first]
    labels = joined_along(trail.positions, read.labels, inside, f"{call.name}{trail.at} takes channels together")
    for dim in range(first, labels.dim()):
        labels = labels.narrow(dim, 0, 1)
    for output in call.gives:
        if output.is_floating_point():
            trail.give(output, labels.expand(output.shape), (read.node,), every)
        else:
            trail.free(output)


def reduce(trail: Trail, call: Call) -> None:
    """Follow a reduction: what it takes together belongs together, unless it is a sum, which zeros add nothing to."""
    read = trail.of(call.tensors[0])
    dims, differs = call.dims(read.labels.dim()), varied(read.labels)
    mixed = [dim for dim in differs if dim in dims]
    what = f"the operation {call.name}{trail.at} takes all its channels together"
    # A sum over all channels needs no fixed number of them; it only has to read zeros.
    if mixed and mixed == differs and call.name in _SUMS:
        if read.node is not None:
            trail.reads.append(Read(read.node, ""))
        for output in call.gives:
            trail.keep(output, what)
        return
    labels = joined_along(trail.positions, read.labels, mixed, what)
    for dim in dims:
        labels = labels.narrow(dim, 0, 1)
    for output in call.gives:
        # Places of a maximum are numbers of channels.
        if not output.is_floating_point():
            trail.keep(output, what)
            continue
        kept = labels if output.dim() == labels.dim() else labels.reshape(output.shape)
        # The logarithm of a sum of ones is not 0.
        trail.give(output, kept, (read.node,), never if call.name == "logsumexp" else every)


def share_out(trail: Trail, call: Call) -> None:
    """Follow a softmax."""
    read = trail.of(call.tensors[0])
    mixed = [dim for dim in varied(read.labels) if dim == call.dim(read.labels.dim())]
    what = f"the operation softmax{trail.at} takes all its channels together"
    joined_along(trail.positions, read.labels, mixed, what)
    # A softmax makes 1/n of zeros.
    trail.give(call.gives[0], read.labels, (read.node,), never)


def gate(trail: Trail, call: Call) -> None:
    """Follow a gated linear unit: one half of the channels, times the sigmoid of the other."""
    read = trail.of(call.tensors[0])
    dim = call.dim(read.labels.dim())
    # torch's glu halves the last dimension unless told otherwise, unlike ``Call.dim``, whose default is the first.
    dim = read.labels.dim() - 1 if dim is None or "dim" not in call.bound else dim
    half, other = read.labels.chunk(2, dim)
    trail.positions.join(half, other, f"the gate{trail.at} takes it in two halves")
    trail.give(call.gives[0], half, (read.node,), every)
