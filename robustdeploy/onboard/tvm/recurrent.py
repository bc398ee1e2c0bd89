"""Recurrent layers written out step by step, in operators that TVM knows: LSTM, GRU and plain ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import ArtifactError

RECURRENT = ("LSTM", "GRU", "RNN")
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_USUAL = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_MOST_STEPS = 512


def unrolled(onnx: Any, graph: Any, node: Any, shapes: Mapping[str, tuple[int, ...]]) -> list[Any] | None:
    """Return nodes that compute what ``node`` does; None where it has options that nobody here knows."""
    options = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    given = [*node.input, *[""] * (8 - len(node.input))]
    direction = options.get("direction", b"forward").decode()
    ways = 2 if direction == "bidirectional" else 1
    usual = _USUAL[node.op_type] * ways
    named = [name.decode() for name in options.get("activations", [])] or usual
    # Lengths of their own, peepholes and clipping are written by no exporter that is common today.
    unknown = given[4] or given[7] or "clip" in options or options.get("layout", 0) or options.get("input_forget", 0)
    if unknown or named != usual or node.input[0] not in shapes or node.input[1] not in shapes:
        return None
    steps = shapes[node.input[0]][0]
    if steps > _MOST_STEPS:
        raise ArtifactError(f"a layer {node.op_type} has {steps} steps; at most {_MOST_STEPS} are written out")
    outputs = [*node.output, *[""] * (3 - len(node.output))]
    cells = [
        _Cell(onnx, graph, node, given, options, shapes, way, f"{node.output[0] or node.output[-1]}/{way}")
        for way in range(ways)
    ]
    for way, cell in enumerate(cells):
        cell.run(steps, backwards=direction == "reverse" or way == 1)
    nodes = [made for cell in cells for made in cell.nodes]
    make = onnx.helper.make_node
    if outputs[0]:
        nodes.append(_joined(make, outputs[0], [cell.all_states for cell in cells], 1))
    if outputs[1]:
        nodes.append(_joined(make, outputs[1], [cell.last_state for cell in cells], 0))
    if outputs[2]:
        nodes.append(_joined(make, outputs[2], [cell.last_memory for cell in cells], 0))
    return nodes


def _joined(make: Any, name: str, parts: list[str], axis: int) -> Any:
    return make("Concat", parts, [name], axis=axis)


class _Cell:
    """One direction of a layer."""

    def __init__(
        self,
        onnx: Any,
        graph: Any,
        node: Any,
        given: list[str],
        options: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        way: int,
        name: str,
    ) -> None:
        self._onnx, self._graph, self._name, self._kind = onnx, graph, name, node.op_type
        self._after = bool(options.get("linear_before_reset", 0))
        self._images = given[0]
        self._batch = shapes[given[0]][1]
        self._hidden = shapes[given[1]][1] // _GATES[self._kind]
        self.nodes: list[Any] = []
        self._count = 0
        self._input = self._matrix(given[1], way)
        self._state = self._matrix(given[2], way)
        self._biases = self._bias(given[3], way)
        self._start = self._initial(given[5], way)
        self._memory = self._initial(given[6], way)
        self.all_states = self.last_state = self.last_memory = ""

    def run(self, steps: int, backwards: bool) -> None:
        """Write out all steps."""
        # All steps' products with the inputs at once: one large product in place of many small ones.
        products = self._add("MatMul", self._images, self._input)
        if self._biases:
            products = self._add("Add", products, self._biases[0])
        state, memory = self._start, self._memory
        states = [""] * steps
        for step in reversed(range(steps)) if backwards else range(steps):
            given = self._add("Gather", products, self._constant(np.int64(step)), axis=0)
            state, memory = getattr(self, f"_{self._kind.lower()}")(given, state, memory)
            states[step] = self._add("Unsqueeze", state, self._constant(np.array([0, 1], np.int64)))
        self.all_states = self._add("Concat", *states, axis=0)
        self.last_state = self._add("Unsqueeze", state, self._constant(np.array([0], np.int64)))
        self.last_memory = self._add("Unsqueeze", memory, self._constant(np.array([0], np.int64)))

    def _lstm(self, given: str, state: str, memory: str) -> tuple[str, str]:
        gates = self._add("Add", given, self._carried(state))
        i, o, f, c = (self._part(gates, at) for at in range(4))
        kept = self._add("Mul", self._add("Sigmoid", f), memory)
        new = self._add("Mul", self._add("Sigmoid", i), self._add("Tanh", c))
        memory = self._add("Add", kept, new)
        return self._add("Mul", self._add("Sigmoid", o), self._add("Tanh", memory)), memory

    def _gru(self, given: str, state: str, memory: str) -> tuple[str, str]:
        hidden = self._hidden
        if self._after:
            carried = self._carried(state)
            z, r = (
                self._add("Sigmoid", self._add("Add", self._part(given, at), self._part(carried, at))) for at in (0, 1)
            )
            candidate = self._add("Mul", r, self._part(carried, 2))
        else:
            both, last = self._columns(self._state, 0, 2 * hidden), self._columns(self._state, 2 * hidden, 3 * hidden)
            carried = self._add("MatMul", state, both)
            bias = [self._ends(0, 2 * hidden), self._ends(2 * hidden, 3 * hidden)] if self._biases else []
            carried = self._add("Add", carried, bias[0]) if bias else carried
            z, r = (
                self._add("Sigmoid", self._add("Add", self._part(given, at), self._part(carried, at))) for at in (0, 1)
            )
            candidate = self._add("MatMul", self._add("Mul", r, state), last)
            candidate = self._add("Add", candidate, bias[1]) if bias else candidate
        candidate = self._add("Tanh", self._add("Add", self._part(given, 2), candidate))
        rest = self._add("Sub", self._constant(np.float32(1)), z)
        return self._add("Add", self._add("Mul", rest, candidate), self._add("Mul", z, state)), memory

    def _rnn(self, given: str, state: str, memory: str) -> tuple[str, str]:
        return self._add("Tanh", self._add("Add", given, self._carried(state))), memory

    def _carried(self, state: str) -> str:
        product = self._add("MatMul", state, self._state)
        return self._add("Add", product, self._biases[1]) if self._biases else product

    def _part(self, gates: str, at: int) -> str:
        return self._columns(gates, at * self._hidden, (at + 1) * self._hidden)

    def _columns(self, name: str, start: int, stop: int) -> str:
        ends = [self._constant(np.array([number], np.int64)) for number in (start, stop, -1)]
        return self._add("Slice", name, *ends)

    def _ends(self, start: int, stop: int) -> str:
        return self._columns(self._biases[1], start, stop)

    def _matrix(self, name: str, way: int) -> str:
        """Return the matrix of one direction, turned so that rows are multiplied with it."""
        return self._add("Transpose", self._add("Gather", name, self._constant(np.int64(way)), axis=0), perm=[1, 0])

    def _bias(self, name: str, way: int) -> list[str]:
        if not name:
            return []
        one = self._add("Gather", name, self._constant(np.int64(way)), axis=0)
        width = _GATES[self._kind] * self._hidden
        return [self._columns(one, 0, width), self._columns(one, width, 2 * width)]

    def _initial(self, name: str, way: int) -> str:
        if name:
            return self._add("Gather", name, self._constant(np.int64(way)), axis=0)
        return self._constant(np.zeros((self._batch, self._hidden), np.float32))

    def _constant(self, value: Any) -> str:
        self._count += 1
        name = f"{self._name}/constant{self._count}"
        self._graph.initializer.append(self._onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def _add(self, kind: str, *given: str, **attributes: Any) -> str:
        self._count += 1
        name = f"{self._name}/{kind}{self._count}"
        self.nodes.append(self._onnx.helper.make_node(kind, list(given), [name], **attributes))
        return name
