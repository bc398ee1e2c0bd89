"""Trail: what is known of the tensors of one forward pass, and where channels come to their end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from robustdeploy.nets.channel_pad import ChannelPad
from robustdeploy.nets.size import WEIGHTED, size_of
from robustdeploy.prune.call import Call, Flags
from robustdeploy.prune.labels import narrowed
from robustdeploy.prune.positions import FREE, Positions


def every(flags: Flags) -> bool:
    """Say that zero comes out where zero goes in."""
    return all(flag for flag in flags if flag is not None)


def never(flags: Flags) -> bool:
    """Say that what comes out is not certainly zero."""
    return False


# Without equality by value: two nodes with the same labels are two tensors.
@dataclass(frozen=True, eq=False)
class Node:
    """One tensor of the forward pass, for the question where a masked channel is zero."""

    labels: Tensor
    """The channels in it."""
    inputs: tuple[Node | None, ...]
    keeps_zero: Callable[[Flags], bool]
    layer: str = ""
    """The layer whose own parameters scale this, where it is one's output."""
    reads: Node | None = None
    """What that layer has read the last of."""


@dataclass(frozen=True)
class Read:
    """Channels that come to their end: what reads them must read zero of a masked one."""

    node: Node
    layer: str
    """The layer whose input weights they meet; empty for a sum over channels."""


@dataclass(frozen=True)
class Mark:
    """What is known of a tensor: the label of each of its numbers, and where they come from."""

    labels: Tensor
    node: Node | None


@dataclass(frozen=True)
class Weight:
    """The weight of a layer, or a transposed view of it."""

    layer: str
    transposed: bool = False


class Trail:
    """Marks of tensors, nodes and reads, in the order in which the forward pass of ``net`` makes them."""

    def __init__(self, net: nn.Module, positions: Positions) -> None:
        self.positions = positions
        self.nodes: list[Node] = []
        self.reads: list[Read] = []
        self.altered: set[str] = set()
        """Layers from whose weight something else is computed."""
        self.ends: list[Node] = []
        """What the net gives."""
        self.where = [""]
        """Names of the modules that are running, the innermost last."""
        self.names = {module: name for name, module in net.named_modules()}
        self.modules = {name: module for module, name in self.names.items()}
        # Weak, and keyed by the tensor itself: an id could be given again to a tensor made after this one is freed.
        self.weights: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._marks: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        for module, name in self.names.items():
            for kind, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                self._know(module, name, kind, tensor)

    def _know(self, module: nn.Module, name: str, kind: str, tensor: Tensor) -> None:
        size = None if isinstance(module, ChannelPad) else size_of(module)
        if isinstance(module, WEIGHTED) and kind == "weight":
            self.weights[tensor] = Weight(name)
        # A scalar gain or a counter meets every channel alike, so it holds none of them.
        elif tensor.numel() == 1:
            self._marks[tensor] = Mark(torch.full(tensor.shape, FREE), None)
        # Biases, affine parameters and running statistics: one number for each output channel.
        elif size is not None and tensor.shape == (size.outputs,):
            self._marks[tensor] = Mark(self.positions.of(name, "out", size.outputs), None)
        else:
            what = "bare parameter" if isinstance(tensor, nn.Parameter) else "buffer"
            self.keep(tensor, f"it is coupled to the {what} {name}.{kind}".replace(" .", " "))

    @property
    def at(self) -> str:
        """Where the forward pass is, for a sentence."""
        return f" in {self.where[-1]}" if self.where[-1] else ""

    def weight_of(self, tensor: Tensor) -> Weight | None:
        """Return the layer whose weight a tensor is, if it is one."""
        found: Weight | None = self.weights.get(tensor, None)  # type: ignore[no-untyped-call]
        return found

    def of(self, tensor: Tensor) -> Mark:
        """Return what is known of a tensor."""
        # Outside of its layer's product the places of a weight are not followed, so what meets it keeps its size.
        if tensor in self.weights:
            return self._fixed(tensor, f"it is coupled to the weight of {self.weights[tensor].layer}")
        if tensor not in self._marks and tensor.numel() == 1:
            self._marks[tensor] = Mark(torch.full(tensor.shape, FREE), None)
        # Tensors made from Python lists, or closed over, have no history; nothing says what their places stand for.
        elif tensor not in self._marks:
            self.keep(tensor, f"it is coupled to a tensor that the forward pass{self.at} takes from elsewhere")
        mark: Mark = self._marks[tensor]
        return mark

    def node(self, labels: Tensor, inputs: Sequence[Node | None], keeps_zero: Callable[[Flags], bool]) -> Node | None:
        """Note what a tensor with these labels is made of."""
        return self._node(narrowed(labels), inputs, keeps_zero, "", None)

    def _node(
        self,
        labels: Tensor,
        inputs: Sequence[Node | None],
        keeps_zero: Callable[[Flags], bool],
        layer: str,
        reads: Node | None,
    ) -> Node | None:
        # Where a channel lies does not matter to whether it is zero; which ones are in the tensor does.
        found = torch.unique(labels)
        found = found[found >= 0]
        if not len(found):
            return None
        self.nodes.append(Node(found, tuple(inputs), keeps_zero, layer, reads))
        return self.nodes[-1]

    def give(
        self,
        tensor: Tensor,
        labels: Tensor,
        inputs: Sequence[Node | None],
        keeps_zero: Callable[[Flags], bool],
        layer: str = "",
        reads: Node | None = None,
    ) -> None:
        """Mark a tensor, made of ``inputs``, or by a layer whose parameters can make it zero."""
        slim = narrowed(labels)
        node = self._node(slim, inputs, keeps_zero, layer, reads)
        # Labels that are all free keep their memory: channels may be written there.
        self._marks[tensor] = Mark(labels if bool((slim == FREE).all()) else slim.expand(labels.shape), node)

    def put(self, tensor: Tensor, mark: Mark) -> None:
        """Mark a tensor anew."""
        self._marks[tensor] = mark

    def backwards(self) -> list[Node]:
        """Return the nodes in the order of a walk back from what the net gives, the last input of each first."""
        seen, waiting = dict.fromkeys(self.ends), list(self.ends)
        while waiting:
            node = waiting.pop()
            for before in (*node.inputs, node.reads):
                if before is not None and before not in seen:
                    seen[before] = None
                    waiting.append(before)
        return list(seen)

    def free(self, tensor: Tensor) -> None:
        """Mark a tensor that no channel is in."""
        self._marks[tensor] = Mark(torch.full(tensor.shape, FREE), None)

    def keep(self, tensor: Tensor, reason: str) -> None:
        """Mark a tensor as one that keeps its size."""
        self._marks[tensor] = self._fixed(tensor, reason)

    def _fixed(self, tensor: Tensor, reason: str) -> Mark:
        return Mark(torch.full((), self.positions.because(reason)).expand(tensor.shape), None)

    def keep_all(self, call: Call, reason: str) -> None:
        """Have all channels that an operation reads stay, and what it gives keep its size."""
        for tensor in call.tensors:
            self.positions.fix(self.of(tensor).labels, reason)
        for tensor in call.gives:
            self.keep(tensor, reason)

    def read(self, layer: str, labels: Tensor, node: Node | None) -> None:
        """Note that channels meet the input weights of a layer."""
        self.positions.join(labels, self.positions.of(layer, "in", len(labels)))
        if node is not None:
            self.reads.append(Read(node, layer))
