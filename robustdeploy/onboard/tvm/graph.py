"""Graph: an ONNX graph made ready for TVM: one image, one output, sizes computed beforehand, and fewer operators."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from ...errors import ArtifactError
from .installed import onnx_package
from .padding import with_full_vectors
from .recurrent import RECURRENT, unrolled
from .vectors import Vectors

_LARGE = 1024
"""Weights with more values than this say nothing about shapes."""
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
_ROUNDS = 4


Pad = Literal["auto"] | bool


def prepared(model: Any, vectors: Vectors, pad: Pad) -> Any:
    """Return ``model`` for one image and with ``scores`` alone; the same numbers, in operators that TVM knows.

    ``pad`` says where channels are added: nowhere, wherever they fill a vector, or (``auto``) where that saves some.
    """
    onnx = onnx_package()
    ready = copy.deepcopy(model)
    graph = ready.graph
    graph.input[0].type.tensor_type.shape.dim[0].Clear()
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    scores = next(value for value in graph.output if value.name == "scores")
    if scores.type.tensor_type.shape.dim:
        scores.type.tensor_type.shape.dim[0].Clear()
        scores.type.tensor_type.shape.dim[0].dim_value = 1
    del graph.value_info[:], graph.output[:]
    graph.output.append(scores)
    if random := next((node.op_type for node in graph.node if node.op_type in _RANDOM), None):
        raise ArtifactError(f"the graph draws random numbers ({random}), so its scores are never twice the same")
    _drop_unread(graph)
    for _ in range(_ROUNDS):
        if not _fold(onnx, ready, _shapes(onnx, ready)):
            break
    _rewrite(onnx, ready)
    if pad is not False:
        with_full_vectors(onnx, ready, _shapes(onnx, ready), vectors, always=pad is True)
    _drop_unread(graph)
    return ready


def _shapes(onnx: Any, model: Any) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of all tensors where they are known."""
    # Weights are left out: shapes follow from their shapes, and inference would copy all of them.
    light = onnx.ModelProto()
    light.CopyFrom(onnx.helper.make_model(onnx.GraphProto(), opset_imports=model.opset_import))
    light.ir_version = model.ir_version
    light.functions.extend(model.functions)
    graph = light.graph
    graph.name = "shapes"
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    known: dict[str, tuple[int, ...]] = {}
    for weight in model.graph.initializer:
        known[weight.name] = tuple(weight.dims)
        if int(np.prod(weight.dims)) <= _LARGE:
            graph.initializer.append(weight)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    inferred = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(size.HasField("dim_value") for size in tensor.shape.dim):
            known[value.name] = tuple(size.dim_value for size in tensor.shape.dim)
    return known


def _fold(onnx: Any, model: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Compute whatever follows from constants and from known shapes; return how many nodes that were."""
    graph = model.graph
    constants = {weight.name: weight for weight in graph.initializer}
    kept, done = [], 0
    for node in graph.node:
        found = _computed(onnx, model, node, constants, shapes)
        if found is None:
            kept.append(node)
            continue
        done += 1
        for name, array in found.items():
            constants[name] = onnx.numpy_helper.from_array(array, name)
            graph.initializer.append(constants[name])
    del graph.node[:]
    graph.node.extend(kept)
    return done


def _computed(
    onnx: Any, model: Any, node: Any, constants: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any] | None:
    if node.op_type == "Shape" and node.domain in ("", "ai.onnx") and node.input[0] in shapes:
        options = {attribute.name: attribute.i for attribute in node.attribute}
        sizes = shapes[node.input[0]][slice(options.get("start"), options.get("end"))]
        return {node.output[0]: np.asarray(sizes, np.int64)}
    given = [name for name in node.input if name]
    # A node that holds graphs of its own may read from outside what its inputs do not name.
    holds = any(attribute.type in (attribute.GRAPH, attribute.GRAPHS) for attribute in node.attribute)
    if holds or not all(name in constants for name in given) or (not given and node.op_type != "Constant"):
        return None
    names = [name for name in node.output if name]
    if "scores" in names:
        return None
    try:
        arrays = onnx.reference.ReferenceEvaluator(node, opsets=_opsets(model)).run(
            names, {name: onnx.numpy_helper.to_array(constants[name]) for name in given}
        )
    except Exception:  # what the evaluator does not know stays for TVM
        return None
    return {name: np.asarray(array) for name, array in zip(names, arrays, strict=True)}


def _opsets(model: Any) -> dict[str, int]:
    return {opset.domain: opset.version for opset in model.opset_import}


def _rewrite(onnx: Any, model: Any) -> None:
    """Replace nodes that TVM does not know, or knows in a way that keeps others from being fused."""
    graph = model.graph
    arrays = {weight.name: weight for weight in graph.initializer}
    shapes = _shapes(onnx, model)
    nodes: list[Any] = []
    for node in graph.node:
        replaced: list[Any] | None = None
        if node.op_type == "BatchNormalization":
            replaced = _scaled(onnx, graph, node, arrays, shapes)
        elif node.op_type in RECURRENT:
            replaced = unrolled(onnx, graph, node, shapes)
        nodes += [node] if replaced is None else replaced
    del graph.node[:]
    graph.node.extend(nodes)


def _scaled(
    onnx: Any, graph: Any, node: Any, arrays: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> list[Any] | None:
    """Write a batch normalisation as a product and a sum."""
    options = {attribute.name: attribute for attribute in node.attribute}
    training = "training_mode" in options and options["training_mode"].i
    if training or len(node.output) > 1 or node.input[0] not in shapes:
        return None
    if not all(name in arrays for name in node.input[1:]):
        return None
    scale, shift, mean, variance = (onnx.numpy_helper.to_array(arrays[name]) for name in node.input[1:])
    epsilon = options["epsilon"].f if "epsilon" in options else 1e-5
    factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    shape = (-1, *(1,) * (len(shapes[node.input[0]]) - 2))
    name = node.output[0]
    for end, array in (("factor", factor), ("offset", shift - mean * factor)):
        values = array.astype(scale.dtype).reshape(shape)
        graph.initializer.append(onnx.numpy_helper.from_array(values, f"{name}/{end}"))
    return [
        onnx.helper.make_node("Mul", [node.input[0], f"{name}/factor"], [f"{name}/scaled"]),
        onnx.helper.make_node("Add", [f"{name}/scaled", f"{name}/offset"], [name]),
    ]


def _drop_unread(graph: Any) -> None:
    """Drop nodes and weights that ``scores`` does not follow from."""
    read = {"scores"}
    kept = []
    for node in reversed(graph.node):
        if read & set(node.output):
            kept.append(node)
            read.update(_reads(node))
    del graph.node[:]
    graph.node.extend(reversed(kept))
    weights = [weight for weight in graph.initializer if weight.name in read]
    del graph.initializer[:]
    graph.initializer.extend(weights)


def _reads(node: Any) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _reads(inner)
            yield from (value.name for value in graph.output)
