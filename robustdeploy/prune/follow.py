"""Follow: which channels every number of a net's feature maps is of, through each operation of its forward pass.

The net runs on real images, and beside every tensor goes one of the same shape that holds labels (see ``positions``).
What only moves numbers (views, slices, concatenations, shuffles) is done to the labels as well; what combines two
tensors number by number joins their labels; a convolution or linear layer reads its input channels and gives new ones.
An operation that is not known keeps all channels that it reads. Whatever code a forward pass is made of, torch's own
operators are what it comes down to; and what is found is tried out before it is believed (see ``rehearsal``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from robustdeploy.nets.channel_pad import ChannelPad
from robustdeploy.nets.size import NORMALISATIONS, size_of
from robustdeploy.prune import follow_layers, follow_moves, follow_sums
from robustdeploy.prune.call import Call
from robustdeploy.prune.labels import along, vector
from robustdeploy.prune.positions import FREE, Positions
from robustdeploy.prune.trail import Trail, every, never

OUTPUT = "they are the net's output"
"""Why the channels of the last layer stay."""
# Operators that give the same numbers in the same places.
_SAME = frozenset({"detach", "alias", "clone", "_to_copy", "lift_fresh"})
_RULES: dict[str, Callable[[Trail, Call], None]] = {
    "native_group_norm": follow_layers.normalise_groups,
    "native_layer_norm": follow_layers.normalise_layers,
    "glu": follow_sums.gate,
    **dict.fromkeys(follow_sums.REDUCES, follow_sums.reduce),
    **dict.fromkeys(follow_sums.SOFTMAX, follow_sums.share_out),
}


def follow(net: nn.Module, images: Tensor, positions: Positions) -> Trail:
    """Run ``net`` as it is on ``images``, joining ``positions``, and return the trail of its channels."""
    trail = Trail(net, positions)
    follower = _Follower(trail)
    # Without gradients, since autograd would add operators of its own and keep every map alive.
    with torch.no_grad(), follower.told(), follower:
        output = net(images)
    # All outputs, not the scores alone: what an auxiliary head gives is read by somebody too.
    for tensor in tree_leaves(output):
        if isinstance(tensor, Tensor):
            mark = trail.of(tensor)
            positions.fix(mark.labels, OUTPUT)
            trail.ends += [mark.node] if mark.node else []
    return trail


class _Follower(TorchDispatchMode):
    """Sees every operation, and which module it is of."""

    def __init__(self, trail: Trail) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._trail = trail
        # Following runs torch operators on labels; those must not be followed in turn.
        self._quiet = False
        self._started = False

    @contextmanager
    def told(self) -> Iterator[None]:
        """Be told which module runs, for the duration of the block."""
        handles = [module.register_forward_pre_hook(self._enter) for module in self._trail.names]
        handles += [module.register_forward_hook(self._leave) for module in self._trail.names]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        trail, name = self._trail, self._trail.names[module]
        trail.where.append(name)
        maps = next((tensor for tensor in tree_leaves(inputs) if isinstance(tensor, Tensor)), None)
        if self._quiet or maps is None:
            return
        self._quiet = True
        # The first module that is given a tensor is the net itself, and that tensor is the image.
        if not self._started:
            trail.keep(maps, "it is coupled to the image's own channels")
            self._started = True
        size = size_of(module)
        # Without affine parameters and running statistics torch's operator sees no tensor of the layer, so the join is
        # made here.
        if isinstance(module, NORMALISATIONS) and size is not None and maps.dim() > 1:
            own = trail.positions.of(name, "out", size.outputs)
            trail.positions.join(vector(trail.positions, trail.of(maps).labels, 1), own)
        # Inside, a ChannelPad gathers by an index or multiplies by a computed matrix; either would keep all its
        # channels.
        self._quiet = isinstance(module, ChannelPad)

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        name = self._trail.where.pop()
        if isinstance(module, ChannelPad):
            read = self._trail.of(inputs[0])
            self._trail.read(name, vector(self._trail.positions, read.labels, 1), read.node)
            out = self._trail.positions.of(name, "out", module.out_channels)
            self._trail.give(output, along(out, 1, output.shape), (), never, name, read.node)
            self._quiet = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # The operator runs first, as most rules need the shape of what it gave.
        given = func(*args, **(kwargs or {}))
        if not self._quiet:
            self._quiet = True
            try:
                _note(self._trail, Call(func, args, kwargs or {}, given))
            finally:
                self._quiet = False
        return given


def _note(trail: Trail, call: Call) -> None:
    # First of all rules: a weight that is transposed, cast or altered is still a weight, whichever operator does it.
    if any(tensor in trail.weights for tensor in call.tensors):
        follow_layers.use_weight(trail, call)
    elif call.name == "convolution":
        follow_layers.convolve(trail, call)
    elif call.name in follow_layers.PRODUCTS:
        follow_layers.multiply(trail, call)
    elif call.name in _SAME and call.gives:
        read = trail.of(call.tensors[0])
        trail.give(call.gives[0], read.labels, (read.node,), every)
    elif call.name in follow_moves.MOVES:
        follow_moves.move(trail, call)
    elif call.name == "constant_pad_nd":
        follow_moves.pad(trail, call)
    elif call.name == "copy" and call.in_place:
        follow_moves.copy(trail, call)
    # They read the shape of a tensor and none of its numbers.
    elif call.name.endswith("_like") or call.name.startswith("new_"):
        for tensor in call.gives:
            trail.free(tensor)
    # From here on rules are about channels; what none is in, such as a table of positions, needs none of them.
    elif not any(bool((trail.of(tensor).labels >= 0).any()) for tensor in call.tensors):
        _note_constant(trail, call)
    elif rule := _RULES.get(call.name):
        rule(trail, call)
    elif call.pointwise:
        follow_sums.combine(trail, call)
    # By part of the name: torch has an operator for each backend and mode, and each version renames some.
    elif "batch_norm" in call.name:
        follow_layers.normalise(trail, call)
    elif any(part in call.name for part in follow_sums.SPATIAL):
        follow_sums.over_space(trail, call)
    else:
        # An unknown operator may do anything with a channel. Keeping all is the one answer that cannot be wrong.
        trail.keep_all(call, f"the operation {call.name}{trail.at} reads it")


def _note_constant(trail: Trail, call: Call) -> None:
    """Note what is made of what no channel is in; of a fixed size if that had one."""
    lowest = min((int(trail.of(tensor).labels.min()) for tensor in call.tensors if tensor.numel()), default=FREE)
    for tensor in call.gives:
        if lowest < FREE:
            trail.keep(tensor, trail.positions.reason(lowest))
        elif not call.in_place:
            trail.free(tensor)
