"""Count the operations of an ONNX file: MACs of its convolutions and matrix products, batch 1."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from robustdeploy.errors import ArtifactError

_Shapes = Mapping[str, tuple[int, ...]]


def macs(path: Path) -> int:
    """Return the MACs of the whole graph for one image."""
    return sum(node_macs(path).values())


def node_macs(path: Path) -> dict[str, int]:
    """Return the MACs of each convolution and matrix product by the name of its first output.

    A free batch counts as 1; all other sizes must be fixed. A file that is no ONNX model, or whose shapes cannot be
    inferred, is an ArtifactError.
    """
    model = _model(path)
    shapes = _shapes(path, model)
    counts = {}
    for node in model.graph.node:
        try:
            counted = _node_macs(node, shapes)
        except KeyError as error:
            raise ArtifactError(
                f"{path}: the shape of {error} at the {node.op_type} '{node.name}' cannot be inferred; "
                "export the net with a fixed image size"
            ) from error
        if counted is not None:
            counts[node.output[0]] = counted
    return counts


def _model(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError) as error:
        raise ArtifactError(f"cannot read {path} as ONNX: {error}") from error
    if not model.ir_version or not model.graph.node:
        raise ArtifactError(f"{path} is no ONNX model: it has no graph")
    return model


def _shapes(path: Path, model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return every shape that is fixed once the batch is 1, inferred anew: what the file says of itself is dropped."""
    del model.graph.value_info[:]
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in constants and dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = 1
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise ArtifactError(f"{path}: the shapes of the graph cannot be inferred: {error}") from error
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _node_macs(node: onnx.NodeProto, shapes: _Shapes) -> int | None:
    if node.op_type in ("Conv", "ConvInteger"):
        return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "QLinearConv":
        return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[3]][1:])
    if node.op_type == "ConvTranspose":
        return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type in ("MatMul", "MatMulInteger", "QLinearMatMul"):
        return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if node.op_type == "Gemm":
        transposed = any(a.name == "transA" and cast("int", a.i) for a in node.attribute)
        return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]
    return None
