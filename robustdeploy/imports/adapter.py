"""Adapter: a file's own graph between nodes that turn pixels in [0, 1], N×C×H×W, into what it reads, and give scores.

The graph itself stays as it was. Only a batch that it fixes is made free, and names that the adapter needs are changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from robustdeploy.cost.onnx_graph import all_graphs
from robustdeploy.imports.inspected import WHOLE, ImageShape, Input
from robustdeploy.nets.graph import OURS
from robustdeploy.onboard.types import Pixels, Scores

IMAGES, SCORES = "images", "scores"
_PREFIX = "given/"


@dataclass(frozen=True)
class Entry:
    """How images enter the file."""

    given: Input
    shape: ImageShape
    layout: str
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    """A pixel x enters as ``x * scale + shift``, with one number for all channels or one for each."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    """Or as ``(x - mean) / std``."""

    @property
    def permutation(self) -> tuple[int, ...] | None:
        """The order of N, C, H and W in which it reads."""
        return (0, 2, 3, 1) if self.layout in ("nhwc", "flat-hwc") and self.shape[0] > 1 else None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of one image as it is read."""
        channels, height, width = self.shape
        forms = {"nchw": self.shape, "nhwc": (height, width, channels), "nhw": (height, width)}
        return forms.get(self.layout, (channels * height * width,))

    def entered(self, images: Pixels) -> npt.NDArray[np.generic]:
        """Return what the file is given for ``images``: the same as the nodes, in numpy."""
        if self.mean is not None and self.std is not None:
            values = (images - _columns(self.mean)) / _columns(self.std)
        else:
            values = images * _columns(self.scale) + _columns(self.shift)
        values = values if self.permutation is None else values.transpose(self.permutation)
        values = values.reshape(-1, *self.sizes)
        kind = helper.tensor_dtype_to_np_dtype(self.given.element)
        return (np.rint(values) if self.given.element in WHOLE else values).astype(kind)

    def nodes(self) -> Iterator[tuple[str, list[npt.NDArray[np.generic]], dict[str, Any]]]:
        """Yield the operators, with their constants and attributes, that lead from pixels to the input."""
        if self.mean is not None and self.std is not None:
            yield "Sub", [_columns(self.mean)], {}
            yield "Div", [_columns(self.std)], {}
        else:
            if set(self.scale) != {1.0}:
                yield "Mul", [_columns(self.scale)], {}
            if set(self.shift) != {0.0}:
                yield "Add", [_columns(self.shift)], {}
        if self.permutation is not None:
            yield "Transpose", [], {"perm": list(self.permutation)}
        if len(self.sizes) != 3 or (self.layout == "nhwc" and self.permutation is None):
            yield "Reshape", [np.array([-1, *self.sizes], np.int64)], {}
        if self.given.element in WHOLE:
            # A cast cuts off towards 0, so all numbers are moved above 0, and half a level up, before it.
            low = int(min(0.0, *self.shift))
            yield "Add", [np.array(0.5 - low, np.float32)], {}
            yield "Cast", [], {"to": TensorProto.INT32}
            if low:
                yield "Add", [np.array(low, np.int32)], {}
            if self.given.element != TensorProto.INT32:
                yield "Cast", [], {"to": self.given.element}
        elif self.given.element != TensorProto.FLOAT:
            yield "Cast", [], {"to": self.given.element}


@dataclass(frozen=True)
class Exit:
    """How the file's answer becomes scores, one for each class of the data."""

    answer: str
    """The tensor of the file."""
    whole: bool
    """Whether it holds labels, which become 1 for their class and 0 for all others."""
    element: int
    flat: bool
    """Whether it is N×K already."""
    count: int
    """How many classes the file tells apart."""
    places: tuple[int, ...]
    """For each class of the data the place of its score; empty where the order is the same."""

    def left(self, answer: npt.NDArray[np.generic]) -> Scores:
        """Return the scores in an answer: the same as the nodes, in numpy."""
        if self.whole:
            scores = np.eye(self.count, dtype=np.float32)[answer.reshape(-1).astype(np.int64)]
        else:
            scores = answer.reshape(len(answer), -1).astype(np.float32)
        return scores[:, list(self.places)] if self.places else scores

    def nodes(self) -> Iterator[tuple[str, list[npt.NDArray[np.generic]], dict[str, Any]]]:
        """Yield the operators, with their constants and attributes, that lead from the answer to the scores."""
        if self.whole:
            yield "Reshape", [np.array([-1], np.int64)], {}
            yield "OneHot", [np.array(self.count, np.int64), np.array([0, 1], np.float32)], {"axis": -1}
        else:
            if self.element != TensorProto.FLOAT:
                yield "Cast", [], {"to": TensorProto.FLOAT}
            if not self.flat:
                yield "Reshape", [np.array([-1, self.count], np.int64)], {}
        if self.places:
            yield "Gather", [np.array(self.places, np.int64)], {"axis": 1}


def adapted(model: onnx.ModelProto, entry: Entry, leave: Exit | None, answer: str, classes: int) -> onnx.ModelProto:
    """Return ``model`` between the nodes of ``entry`` and ``leave``; without ``leave`` its ``answer`` comes alone."""
    before = list(entry.nodes())
    behind = [] if leave is None else list(leave.nodes())
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    name, graph = entry.given.name, whole.graph
    # A name of ours that the graph has for something else would be taken for ours.
    taken = names_in(graph) - ({IMAGES} if name == IMAGES and not before else set())
    taken -= {SCORES} if answer == SCORES and not behind else set()
    names = {each: f"{_PREFIX}{each}" for each in {IMAGES, SCORES} & taken}
    if names:
        renamed(graph, names)
        name, answer = names.get(name, name), names.get(answer, answer)
    fixed = entry.given.batch
    if fixed is not None:
        _free_batch(graph, fixed, name)
        del graph.value_info[:]
    weights = [value for value in graph.input if value.name != name]
    nodes = list(graph.node)
    entering = _chain(graph, IMAGES, name, before, "in")
    leaving = _chain(graph, answer, SCORES if leave else answer, behind, "out")
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend([*entering, *nodes, *leaving])
    images = helper.make_tensor_value_info(IMAGES, TensorProto.FLOAT, ["N", *entry.shape])
    graph.input.extend([images, *weights])
    if leave is None:
        graph.output.append(onnx.ValueInfoProto(name=answer))
    else:
        graph.output.append(helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, ["N", classes]))
    _drop_values(graph, {IMAGES, SCORES})
    return whole


def is_deployable(model: onnx.ModelProto, entry: Entry, leave: Exit) -> bool:
    """Say whether a file can be deployed as it is: its names, its free batch and its numbers are what boards take."""
    plain = not list(entry.nodes()) and not list(leave.nodes()) and entry.given.batch is None
    fixed = entry.given.dims == entry.shape
    outputs = [value.name for value in model.graph.output]
    return plain and fixed and entry.given.name == IMAGES and outputs == [SCORES] and not leave.whole


def _chain(
    graph: onnx.GraphProto,
    source: str,
    goal: str,
    steps: Sequence[tuple[str, list[npt.NDArray[np.generic]], dict[str, Any]]],
    side: str,
) -> list[onnx.NodeProto]:
    """Make the nodes of ``steps`` between two names, and put their constants into ``graph``."""
    if not steps:
        return [] if source == goal else [helper.make_node("Identity", [source], [goal], name=f"{OURS}{side}")]
    nodes = []
    for number, (operator, constants, attributes) in enumerate(steps):
        names = [f"{OURS}{side}/{number}/{place}" for place in range(len(constants))]
        graph.initializer.extend(
            numpy_helper.from_array(np.asarray(c), n) for c, n in zip(constants, names, strict=True)
        )
        made = goal if number == len(steps) - 1 else f"{OURS}{side}/{number}"
        nodes.append(helper.make_node(operator, [source, *names], [made], name=f"{OURS}{side}/{number}", **attributes))
        source = made
    return nodes


def _columns(values: Sequence[float]) -> npt.NDArray[np.float32]:
    """Lay one number per channel along the channels; one for all stays one number."""
    array = np.asarray(values, np.float32)
    return array.reshape(()) if len(values) == 1 else array.reshape(-1, 1, 1)


def names_in(graph: onnx.GraphProto) -> set[str]:
    """Return the names of all values of a graph."""
    found = {name for node in graph.node for name in (*node.input, *node.output)}
    return found | {each.name for each in (*graph.initializer, *graph.input, *graph.output)}


def renamed(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Give values other names, also inside of the graphs of nodes, which read those outside by name."""
    for each in all_graphs(graph):
        for node in each.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        for value in (*each.input, *each.output, *each.value_info, *each.initializer):
            value.name = names.get(value.name, value.name)


def _drop_values(graph: onnx.GraphProto, names: set[str]) -> None:
    """Drop what the graph says of values that are inputs or outputs by now."""
    kept = [value for value in graph.value_info if value.name not in names]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _free_batch(graph: onnx.GraphProto, batch: int, name: str) -> None:
    """Let what is reshaped to the fixed batch keep the batch that there is."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    given = {node.output[0]: node for node in graph.node if node.op_type == "Constant"}
    moving = {name}
    for node in graph.node:
        if not moving & set(node.input):
            continue
        moving.update(node.output)
        if node.op_type != "Reshape" or node.input[0] not in moving:
            continue
        held = constants.get(node.input[1])
        if held is None and (made := given.get(node.input[1])) is not None and made.attribute[0].name == "value":
            held = made.attribute[0].t
        sizes = [] if held is None else numpy_helper.to_array(held).tolist()
        # Torch's exporter writes allowzero beside sizes without a zero, where it means nothing.
        allowed = [each for each in node.attribute if each.name == "allowzero" and each.i]
        if len(sizes) > 1 and sizes[0] == batch and not (allowed and 0 in sizes):
            for each in allowed:
                each.i = 0
            # A tensor of its own: other nodes may share the old one.
            free = f"{OURS}batch/{node.output[0]}"
            graph.initializer.append(numpy_helper.from_array(np.array([0, *sizes[1:]], np.int64), free))
            node.input[1] = free
