"""Padding: more channels than a graph has, so that they fill whole vectors; the scores stay what they were.

A channel that is added holds numbers that nobody reads: whatever multiplies it has the weight zero. So all that has
to be true of an operator in between is that it gives finite numbers and keeps channels apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .vectors import Vectors, padded

_KEPT_APART = {
    *("Relu", "LeakyRelu", "Clip", "Tanh", "Sigmoid", "HardSwish", "HardSigmoid", "Gelu", "Erf", "Elu", "Selu"),
    *("Identity", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Abs", "Neg", "Softplus", "Mish"),
}
_SCORES = "scores"
_PAIRS = {"Add", "Sub", "Mul", "Max", "Min"}


def with_full_vectors(
    onnx: Any, model: Any, shapes: Mapping[str, tuple[int, ...]], vectors: Vectors, always: bool
) -> bool:
    """Add channels to ``model``, whose tensors have the ``shapes``; return whether any were added."""
    return _Padding(onnx, model.graph, shapes, lambda channels: padded(channels, vectors, always)).done()


class _Padding:
    """The walk along the nodes of a graph."""

    def __init__(
        self, onnx: Any, graph: Any, shapes: Mapping[str, tuple[int, ...]], wanted: Callable[[int], int]
    ) -> None:
        self._onnx, self._graph, self._shapes, self._wanted = onnx, graph, shapes, wanted
        self._weights = {weight.name: weight for weight in graph.initializer}
        self._more: dict[str, int] = {}
        """Of each tensor that has more, the number of channels: its axis 1."""
        self._nodes: list[Any] = []
        self._exact: dict[str, str] = {}
        self._any = False

    def done(self) -> bool:
        """Rewrite all nodes in their order."""
        for node in list(self._graph.node):
            rule = getattr(self, f"_{node.op_type.lower()}", None)
            if node.op_type in _KEPT_APART:
                rule = self._alike
            elif node.op_type in _PAIRS:
                rule = self._pair
            if rule is None or not rule(node):
                self._alone(node)
            self._nodes.append(node)
            if _SCORES in self._more:
                self._cut_scores(node)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        return self._any

    # Rules: each returns whether it has dealt with the node.

    def _conv(self, node: Any) -> bool:
        weights = self._array(node.input[1])
        if weights is None or weights.ndim != 4 or any(self._array(name) is None for name in node.input[2:] if name):
            return False
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        bias = self._array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        given = self._more.get(node.input[0], 0)
        if groups == 1:
            outputs = self._outputs(node, len(weights))
            weights = _widened(_widened(weights, 1, max(given, weights.shape[1])), 0, outputs)
        elif given and groups == len(weights) and weights.shape[1] == 1:
            outputs = given
            weights = _widened(weights, 0, outputs)
            for attribute in node.attribute:
                if attribute.name == "group":
                    attribute.i = given
        else:
            return False
        node.input[1] = self._constant(node.input[1], weights)
        if bias is not None:
            node.input[2] = self._constant(node.input[2], _widened(bias, 0, outputs))
        self._note(node, outputs)
        return True

    def _gemm(self, node: Any) -> bool:
        turned = {attribute.name: attribute.i for attribute in node.attribute if attribute.name.startswith("trans")}
        given = self._more.get(node.input[0])
        weights = self._array(node.input[1])
        if given is None or weights is None or turned.get("transA"):
            return False
        node.input[1] = self._constant(node.input[1], _widened(weights, 1 if turned.get("transB") else 0, given))
        return True

    def _matmul(self, node: Any) -> bool:
        given, weights = self._more.get(node.input[0]), self._array(node.input[1])
        if given is None or weights is None or weights.ndim != 2 or len(self._shapes.get(node.input[0], ())) != 2:
            return False
        node.input[1] = self._constant(node.input[1], _widened(weights, 0, given))
        return True

    def _alike(self, node: Any) -> bool:
        if node.input[0] not in self._more or (node.op_type == "MaxPool" and len(node.output) > 1):
            return False
        self._note(node, self._more[node.input[0]])
        return True

    def _prelu(self, node: Any) -> bool:
        slope = self._array(node.input[1])
        if node.input[0] not in self._more or slope is None:
            return False
        return self._beside(node, 1) and self._alike(node)

    def _pair(self, node: Any) -> bool:
        counts = {self._more[name] for name in node.input if name in self._more}
        if len(counts) != 1 or len(node.input) != 2:
            return False
        if not all(name in self._more or self._beside(node, at) for at, name in enumerate(node.input)):
            return False
        self._note(node, counts.pop())
        return True

    def _beside(self, node: Any, at: int) -> bool:
        """Give the input ``at`` as many channels as the others have; say whether that can be."""
        name = node.input[at]
        count = next(self._more[other] for other in node.input if other in self._more)
        rank = next(len(self._shapes[other]) for other in node.input if other in self._more)
        array = self._array(name)
        shape = self._shapes.get(name) if array is None else array.shape
        if shape is None or len(shape) > rank:
            return False
        axis = 1 - (rank - len(shape))
        if axis < 0 or shape[axis] == 1:
            return True
        if array is not None:
            node.input[at] = self._constant(name, _widened(array, axis, count))
            return True
        if len(shape) != rank:
            return False
        ends = [0] * len(shape) + [0, count - shape[1], *[0] * (len(shape) - 2)]
        wider = f"{name}/wider{count}"
        if wider not in self._more:
            pads = self._constant(f"{wider}/pads", np.array(ends, np.int64))
            self._nodes.append(self._onnx.helper.make_node("Pad", [name, pads], [wider]))
            self._more[wider] = count
        node.input[at] = wider
        return True

    def _reducemean(self, node: Any) -> bool:
        given = self._more.get(node.input[0])
        axes = self._array(node.input[1]) if len(node.input) > 1 and node.input[1] else None
        named = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "axes"), None)
        over = named if axes is None else axes.tolist()
        if given is None or over is None:
            return False
        rank = len(self._shapes[node.input[0]])
        if {int(axis) % rank for axis in over} & {0, 1}:
            return False
        self._note(node, given)
        return True

    def _flatten(self, node: Any) -> bool:
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        return axis == 1 and self._flat(node)

    def _reshape(self, node: Any) -> bool:
        if not self._flat(node):
            return False
        node.input[1] = self._constant(node.input[1], np.array([1, -1], np.int64))
        return True

    def _flat(self, node: Any) -> bool:
        """Lay all channels of the one image in a row: those that were added are its end."""
        given = self._more.get(node.input[0])
        shape, result = self._shapes.get(node.input[0], ()), self._shapes.get(node.output[0], ())
        if given is None or len(result) != 2 or result[0] != 1 or shape[:1] != (1,):
            return False
        self._note(node, given * int(np.prod(shape[2:])))
        return True

    def _slice(self, node: Any) -> bool:
        axes = self._array(node.input[3]) if len(node.input) > 3 and node.input[3] else None
        if node.input[0] not in self._more or axes is None:
            return False
        rank = len(self._shapes[node.input[0]])
        if {int(axis) % rank for axis in axes.tolist()} & {0, 1}:
            return False
        self._note(node, self._more[node.input[0]])
        return True

    def _gather(self, node: Any) -> bool:
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        index = self._array(node.input[1])
        if axis != 1 or index is None or index.ndim != 1 or not len(index) or (index < 0).any():
            return False
        if len(self._shapes.get(node.output[0], ())) != 4:
            return False
        outputs = self._outputs(node, len(index))
        node.input[1] = self._constant(node.input[1], np.concatenate([index, index[:1].repeat(outputs - len(index))]))
        self._note(node, outputs)
        return True

    def _alone(self, node: Any) -> None:
        """Give a node that knows nothing of added channels what it had without them."""
        for at, name in enumerate(node.input):
            if name not in self._more:
                continue
            if name not in self._exact:
                self._exact[name] = f"{name}/exact"
                self._cut(name, self._shapes[name][1], self._exact[name])
            node.input[at] = self._exact[name]

    def _cut_scores(self, node: Any) -> None:
        """Have a node whose output is the net's own answer as many of them as there were."""
        wide = f"{_SCORES}/wide"
        node.output[list(node.output).index(_SCORES)] = wide
        self._more[wide] = self._more.pop(_SCORES)
        self._cut(wide, self._shapes[_SCORES][1], _SCORES)

    def _cut(self, name: str, count: int, result: str) -> None:
        ends = [
            self._constant(f"{name}/{end}", np.array([number], np.int64))
            for end, number in (("start", 0), ("stop", count), ("axis", 1))
        ]
        self._nodes.append(self._onnx.helper.make_node("Slice", [name, *ends], [result]))

    # What the rules share.

    def _outputs(self, node: Any, channels: int) -> int:
        return channels if _SCORES in node.output else self._wanted(channels)

    def _note(self, node: Any, count: int) -> None:
        shape = self._shapes[node.output[0]]
        if count != shape[1]:
            self._more[node.output[0]] = count
            self._any = True

    def _array(self, name: str) -> Any:
        return self._onnx.numpy_helper.to_array(self._weights[name]) if name in self._weights else None

    def _constant(self, name: str, array: Any) -> str:
        """Add a weight under a name of its own; others may still read the one that it is made from."""
        fresh = f"{name}/{len(self._weights)}"
        self._weights[fresh] = self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), fresh)
        self._graph.initializer.append(self._weights[fresh])
        return fresh


def _widened(array: Any, axis: int, size: int) -> Any:
    """Add zeros at the end of ``axis`` until it has ``size``."""
    return np.pad(array, [(0, size - length if at == axis else 0) for at, length in enumerate(array.shape)])
