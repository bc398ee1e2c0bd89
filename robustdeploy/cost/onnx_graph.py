"""Count the operations of an ONNX file: MACs of every product of its graph, for one image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]

from robustdeploy.core.reading import read_bounded
from robustdeploy.cost.onnx_nodes import NEWEST_OPSET, UNCOUNTED, Shape, attribute, node_macs
from robustdeploy.errors import ArtifactError

_MOST_BYTES = 2**31 - 1
"""Of one protobuf message."""
_MOST_SIZES = 1024
"""Numbers of a constant that may say how large something is, or where something lies."""
_WITH_GRAPHS = ("If", "Loop", "Scan")
_Simpler = Callable[[onnx.ModelProto], onnx.ModelProto]


def macs(path: Path) -> int:
    """Return the MACs of the whole graph for one image."""
    return sum(product_macs(path).values())


def product_macs(path: Path) -> dict[str, int]:
    """Return the MACs of each product by the name of its node's first output: of one more image, if the batch is free.

    So what the graph computes once for all images, from constants alone, has none. Graphs inside nodes and the model's
    own functions are looked into. A file that is no ONNX model, whose shapes cannot be inferred, or with an operator
    that cannot be counted is an ArtifactError.
    """
    model = read_model(path)
    _check_opset(path, model)
    _drop_weights(model.graph)  # first, as each step that follows copies the model
    # Shape inference and the rules for nodes know ONNX's operators, not a model's own.
    model = onnx.inliner.inline_local_functions(model)
    batch = _free_batch(model)
    for dim in batch:
        # Inference needs numbers: a symbolic batch leaves every reshaped size unknown.
        dim.dim_value = 1
    one = _counted(path, model)
    if not batch:
        return one
    for dim in batch:
        dim.dim_value = 2
    # A second count tells what grows with the images from what is computed once, and finds nets that mix them.
    two = _counted(path, model)
    for name, single in one.items():
        if two.get(name) not in (single, 2 * single):
            raise ArtifactError(
                f"{path}: the product '{name}' takes {single:,} MACs for one image and {two.get(name, 0):,} for two; "
                "a net must treat each image alike"
            )
    return {name: single for name, single in one.items() if two[name] == 2 * single}


def read_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file that holds all of itself; one that takes values from other files is an ArtifactError."""
    try:
        content = read_bounded(path, _MOST_BYTES)
    except ArtifactError as problem:
        raise ArtifactError(f"cannot read {path} as ONNX: {problem}") from problem
    return model_from(content, path)


def model_from(content: bytes, path: Path) -> onnx.ModelProto:
    """Read the content of an ONNX file; as ``read_model``."""
    try:
        # From bytes, so that no external data are looked for: their paths may name whatever lies on this disk.
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ArtifactError(
            f"cannot read {path} as ONNX: {error}; it was cut short, or is another kind of file"
        ) from error
    # Almost any bytes parse as an empty protobuf message, so parsing alone proves nothing.
    if not model.ir_version or not model.graph.node:
        raise ArtifactError(f"{path} is no ONNX model: it has no graph")
    if (tensor := next(_elsewhere(model), None)) is not None:
        place = next((entry.value for entry in tensor.external_data if entry.key == "location"), "another file")
        raise ArtifactError(
            f"{path} takes the values of '{tensor.name}' from {place!r}; such a file is not used. Make it one file, in "
            f"Python: onnx.save(onnx.load({path.name!r}), 'one.onnx')"
        )
    return model


def _elsewhere(message: Any) -> Iterator[onnx.TensorProto]:
    """The tensors, anywhere in a message, whose values are in other files: any file that the runtime may read."""
    # Over all fields of all messages: tensors hide in attributes, sparse constants and functions too.
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in (value,) if isinstance(value, Message) else value:
                if isinstance(inner, onnx.TensorProto) and inner.data_location == onnx.TensorProto.EXTERNAL:
                    yield inner
                yield from _elsewhere(inner)


def _check_opset(path: Path, model: onnx.ModelProto) -> None:
    newest = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=0)
    # A newer operator without a rule would silently count as 0.
    if newest > NEWEST_OPSET:
        raise ArtifactError(
            f"{path} is of opset {newest}, whose operators are not known here; export it for {NEWEST_OPSET} or older"
        )


def _drop_weights(graph: onnx.GraphProto) -> None:
    """Make inputs of all constants that are no sizes: only their shapes are needed, and a copy of them takes long."""
    given = {value.name for value in graph.input}
    kept = [tensor for tensor in graph.initializer if math.prod(tensor.dims) <= _MOST_SIZES]
    for tensor in graph.initializer:
        # Older files list constants among the inputs already, and a name may stand there once.
        if math.prod(tensor.dims) > _MOST_SIZES and tensor.name not in given:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _free_batch(model: onnx.ModelProto) -> list[Any]:
    """Drop what the graph says of its own shapes, and return every place where it leaves the number of images free."""
    constants = {tensor.name for tensor in model.graph.initializer}
    free, names = [], set()
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in constants and dims and not dims[0].HasField("dim_value"):
            free.append(dims[0])
            names.add(dims[0].dim_param)
    # What an exporter wrote of shapes may hold the symbolic batch, or be wrong; inference writes them anew.
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    for graph in all_graphs(model.graph):
        del graph.value_info[:]
        inside = () if graph is model.graph else (*graph.input, *graph.output)
        # Inputs of loops and branches name the batch again, by the same symbol.
        dims = [dim for value in inside for dim in value.type.tensor_type.shape.dim]
        free += [dim for dim in dims if dim.HasField("dim_param") and dim.dim_param in names]
    return free


def _counted(path: Path, model: onnx.ModelProto) -> dict[str, int]:
    """Count every product of a graph all of whose sizes are given."""
    for simpler in (None, _folded):  # what takes longer, only where it is needed
        with suppress(_NoShape):
            return dict(_Graph(path, model, simpler).counts())
    return dict(_Graph(path, model, _optimised).counts())


class _NoShape(ArtifactError):
    """A shape cannot be inferred."""


class _Graph:
    """A model with the shapes of its tensors, and the values of those that are constant where those were worked out."""

    def __init__(self, path: Path, model: onnx.ModelProto, simpler: _Simpler | None) -> None:
        self._path, self._model = path, model
        self._values: dict[str, Any] = {}
        self._shapes: dict[str, Shape] = {}
        if simpler is not None:  # sizes that the graph computes are constants once the batch is one
            # The simpler copy first, so that what the model itself says of a tensor has the last word.
            self._learn(simpler(model))
        self._learn(model)

    def counts(self) -> Iterator[tuple[str, int]]:
        """Yield each product's name and MACs."""
        yield from self._of(self._model.graph, "", 1)

    def _of(self, graph: onnx.GraphProto, within: str, times: int) -> Iterator[tuple[str, int]]:
        for node in graph.node:
            name = within + node.output[0]
            # A vendor's fused operator may hold a whole layer. Guessing 0 would make a budget true on paper alone.
            if node.domain not in ("", "ai.onnx") or node.op_type in UNCOUNTED:
                operator = ".".join(filter(None, (node.domain, node.op_type)))
                raise ArtifactError(f"{self._path}: the operator {operator} ('{name}') has no number of MACs here")
            if node.op_type in _WITH_GRAPHS:
                yield from self._inside(node, f"{name}/", times)
                continue
            try:
                counted = node_macs(node, self._shapes)
            except KeyError as error:
                raise _NoShape(
                    f"{self._path}: the shape of {error} at the {node.op_type} '{name}' cannot be inferred; "
                    "export the net with a fixed image size"
                ) from error
            if counted is not None:
                yield name, times * counted

    def _inside(self, node: onnx.NodeProto, within: str, times: int) -> Iterator[tuple[str, int]]:
        """Count the graphs of one node: a loop's as often as it runs; of two branches either, if they cost alike."""
        if node.op_type != "If":
            body = attribute(node, "body")
            yield from self._of(body, within, times * self._trips(node, body))
            return
        branches = [list(self._of(attribute(node, f"{name}_branch"), within, times)) for name in ("then", "else")]
        if (taken := self._values.get(node.input[0])) is not None:
            yield from branches[0 if bool(taken) else 1]
        # Exporters write an If for a squeeze that may or may not be due; both ways cost the same there.
        elif len({sum(counted for _, counted in branch) for branch in branches}) == 1:
            yield from branches[0]
        else:
            raise ArtifactError(
                f"{self._path}: which branch of '{node.name}' runs depends on the image, and so its MACs"
            )

    def _trips(self, node: onnx.NodeProto, body: onnx.GraphProto) -> int:
        if node.op_type == "Scan":
            scanned = attribute(node, "num_scan_inputs")
            axis = next(iter(attribute(node, "scan_input_axes", ())), 0)
            if (shape := self._shapes.get(node.input[len(node.input) - scanned])) is not None:
                return shape[axis]
            raise _NoShape(f"{self._path}: how often the Scan '{node.name}' runs cannot be inferred")
        # The loop runs its full count if its condition is never given, or is handed on unchanged.
        goes_on = body.output[0].name in {given.name for given in body.input[1:2]} or not node.input[1]
        if (trips := self._values.get(node.input[0])) is None:
            raise _NoShape(f"{self._path}: how often the Loop '{node.name}' runs cannot be inferred")
        if not goes_on and not self._always(body):
            raise ArtifactError(f"{self._path}: how often the Loop '{node.name}' runs depends on the image")
        return int(trips)

    def _always(self, body: onnx.GraphProto) -> bool:
        """Whether a loop's body always asks to go on: it hands its condition on, or gives a constant that is true."""
        made = {name: node for node in body.node for name in node.output}
        source = made.get(body.output[0].name)
        while source is not None and source.op_type in ("Identity", "Cast"):
            if source.input[0] == body.input[1].name:
                return True
            source = made.get(source.input[0])
        return source is not None and source.op_type == "Constant" and bool(_constant(source))

    def _learn(self, model: onnx.ModelProto) -> None:
        try:
            inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
            raise ArtifactError(f"{self._path}: the shapes of the graph cannot be inferred: {error}") from error
        for graph in all_graphs(inferred.graph):
            self._shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
            for value in (*graph.input, *graph.value_info, *graph.output):
                dims = value.type.tensor_type.shape.dim
                if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
                    self._shapes[value.name] = tuple(dim.dim_value for dim in dims)
            # Only single numbers are looked up as values: conditions and numbers of trips.
            small = (tensor for tensor in graph.initializer if not tensor.external_data and len(tensor.dims) < 2)
            self._values |= {
                tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in small if sum(tensor.dims) < 2
            }
            self._values |= {node.output[0]: _constant(node) for node in graph.node if node.op_type == "Constant"}


def _constant(node: onnx.NodeProto) -> Any:
    given = onnx.helper.get_attribute_value(node.attribute[0])
    return onnx.numpy_helper.to_array(given) if isinstance(given, onnx.TensorProto) else np.array(given)


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and those inside of its nodes."""
    yield graph
    for node in graph.node:
        for each in node.attribute:
            if each.type == onnx.AttributeProto.GRAPH:
                yield from all_graphs(each.g)


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which what follows from constants and from given sizes is a constant."""
    from onnxscript import optimizer

    copied = _copied(model)
    optimizer.fold_constants(copied, onnx_shape_inference=True)
    return copied


def _optimised(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which also what is equal, or undone by the next node, is left out."""
    from onnxscript import optimizer

    optimised: onnx.ModelProto = optimizer.optimize(_copied(model), num_iterations=2, onnx_shape_inference=True)
    return optimised


def _copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied
