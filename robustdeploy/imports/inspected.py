"""What an ONNX file of others says of itself: its input, its output, the order and the range of its pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from robustdeploy.core.complaint import did_you_mean
from robustdeploy.cost.onnx_graph import all_graphs
from robustdeploy.errors import ArtifactError, UsageError
from robustdeploy.imports.asked import Asked

ImageShape = tuple[int, int, int]
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
WHOLE = (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32, TensorProto.INT64)
_NOMINAL = {
    "Normalized_0_1": (0.0, 1.0),
    "Normalized_1_1": (-1.0, 1.0),
    "NominalRange_0_255": (0.0, 255.0),
    "NominalRange_16_235": (16.0, 235.0),
}
"""What the image metadata of ONNX call a range: https://github.com/onnx/onnx/blob/main/docs/MetadataProps.md."""
_CARRIED = ("Cast", "Transpose", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Pad")
"""What may stand before the node that tells the range."""


@dataclass(frozen=True)
class Input:
    """The one input that takes images."""

    name: str
    element: int
    """ONNX's number of the type."""
    dims: tuple[int | None, ...]
    """Without the batch; None where a size is free."""
    batch: int | None
    """None where the number of images is free."""


@dataclass(frozen=True)
class Answer:
    """The tensor that holds the scores."""

    name: str
    labels: tuple[str, ...] = ()
    """What the file calls its classes, where it does."""
    others: tuple[str, ...] = ()
    """The file's other outputs."""


def input_of(model: onnx.ModelProto) -> Input:
    """Return the input that takes images; several, or one of another kind, are an ArtifactError."""
    weights = {tensor.name for tensor in (*model.graph.initializer,)}
    weights |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    given = [value for value in model.graph.input if value.name not in weights]
    if len(given) != 1:
        names = ", ".join(value.name for value in given) or "none"
        raise ArtifactError(
            f"the file has {len(given)} inputs ({names}), and a classifier of images has one; export it with the "
            "others as constants"
        )
    tensor = given[0].type.tensor_type
    if tensor.elem_type not in (*FLOATS, *WHOLE):
        taken = ", ".join(_type_name(kind) for kind in (*FLOATS, *WHOLE))
        raise ArtifactError(
            f"its input '{given[0].name}' is of type {_type_name(tensor.elem_type)}, and images are given as one of "
            f"{taken}; export it with one of these, such as float"
        )
    dims = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in tensor.shape.dim]
    if not 2 <= len(dims) <= 4:
        raise ArtifactError(
            f"its input '{given[0].name}' has {len(dims)} dimensions; images have a batch and 1 to 3 more"
        )
    return Input(given[0].name, tensor.elem_type, tuple(dims[1:]), dims[0])


def fitting(given: Input, shape: ImageShape) -> list[str]:
    """Return the orders in which the input can read images of C×H×W, the most usual first."""
    channels, height, width = shape
    forms: dict[str, tuple[int, ...]] = {"nchw": shape, "nhwc": (height, width, channels)}
    forms["flat"] = (channels * height * width,)
    # Of one channel the two are the same.
    forms |= {"flat-hwc": forms["flat"]} if channels > 1 else {}
    forms |= {"nhw": (height, width)} if channels == 1 else {}
    return [name for name, dims in forms.items() if _fit(given.dims, dims)]


def layout_of(model: onnx.ModelProto, given: Input, asked: Asked, shape: ImageShape) -> tuple[str, str]:
    """Return the order in which the file reads images of C×H×W, and how that was found; '' where it was told."""
    fits = fitting(given, shape)
    if asked.layout is not None:
        if asked.layout not in fits:
            raise UsageError(
                f"--layout {asked.layout}: its input {_shown(given)} cannot be that for images of {_times(shape)}"
                + (f"; it can be {' or '.join(fits)}" if fits else "")
            )
        return asked.layout, ""
    if not fits:
        raise ArtifactError(_misfit(given, shape))
    if len(fits) == 1 or fits[0].startswith("flat"):
        return fits[0], f"layout {fits[0]}: its input is {_shown(given)}"
    first = next((node for node in model.graph.node if given.name in node.input), None)
    perm = [list(each.ints) for each in first.attribute if each.name == "perm"] if first is not None else []
    if first is not None and first.op_type == "Transpose" and perm == [[0, 3, 1, 2]]:
        return "nhwc", "layout nhwc: the file first moves the channels from the last place to the first"
    return "nchw", f"layout nchw: its input {_shown(given)} fits {' and '.join(fits)}, and nchw is usual in ONNX"


def values_of(model: onnx.ModelProto, given: Input) -> tuple[tuple[float, float], str, bool]:
    """Return what black and white are for the file, how that was found, and whether anything in the file says so."""
    if given.element in WHOLE:
        low = -128.0 if given.element == TensorProto.INT8 else 0.0
        return (low, low + 255), f"range {low:g}..{low + 255:g}: its input is of type {_type_name(given.element)}", True
    said = {entry.key: entry.value for entry in model.metadata_props}.get("Image.NominalPixelRange", "")
    if said in _NOMINAL:
        low, high = _NOMINAL[said]
        return (low, high), f"range {low:g}..{high:g}: its metadata say {said}", True
    for node, constant in _first_sums(model, given.name):
        least, most = float(np.min(constant)), float(np.max(constant))
        grey = {
            "Div": least > 100 and most < 300,
            "Mul": least > 1 / 300 and most < 1 / 100,
            "Sub": most > 2.0,
            "Add": least < -2.0,
        }
        if grey.get(node.op_type, False):
            return (0.0, 255.0), f"range 0..255: the file begins with {node.op_type} by {most:.4g}", True
    return (0.0, 1.0), "range 0..1: nothing in the file says otherwise", False


def scores_of(model: onnx.ModelProto, wanted: str | None, count: int) -> tuple[Answer, str]:
    """Return the tensor of ``count`` scores an image, and how it was found; '' where told or there is one output."""
    outputs = {value.name: value for value in model.graph.output}
    if not outputs:
        raise ArtifactError("the file has no output, and a classifier gives scores; export it again")
    if wanted is not None and wanted not in outputs:
        raise UsageError(
            f"--output {wanted}: the file has no such output{did_you_mean(wanted, outputs)} ({', '.join(outputs)})"
        )
    zipped = {node.output[0]: node for node in model.graph.node if node.op_type == "ZipMap"}

    def rank(name: str) -> int:
        tensor = outputs[name].type.tensor_type
        if name in zipped:
            return 0
        if tensor.elem_type in FLOATS:
            sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim][1:]
            if None in sizes or not sizes:
                return 1
            # Features, which some nets give beside their scores, are of another number.
            return 0 if math.prod(filter(None, sizes)) == count else 3
        return 2 if tensor.elem_type in WHOLE else 4

    name = wanted or min(outputs, key=rank)
    tensor, made = outputs[name].type.tensor_type, zipped.get(name)
    if made is None and tensor.elem_type not in (*FLOATS, *WHOLE):
        fix = f"name another with --output ({', '.join(outputs)})" if len(outputs) > 1 else "export it with its scores"
        raise ArtifactError(f"its output '{name}' holds neither scores nor whole-numbered labels; {fix}")
    labels = _zipped_labels(made) if made is not None else ()
    why = "" if wanted or len(outputs) == 1 else f"output {name}: the first of {', '.join(outputs)} that can be scores"
    others = tuple(each for each in outputs if each != name)
    return Answer(name if made is None else made.input[0], labels, others), why


def unread_inputs(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the inputs that nothing in the file reads, as exporters leave them; none where nothing is read at all."""
    read = {name for graph in all_graphs(model.graph) for node in graph.node for name in node.input}
    read |= {value.name for value in model.graph.output}
    unread = tuple(value.name for value in model.graph.input if value.name not in read)
    return () if len(unread) == len(model.graph.input) else unread


def foreign_domains(model: onnx.ModelProto) -> list[str]:
    """Return whose operators a file has that are neither ONNX's, ONNX Runtime's nor functions of its own."""
    known = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft", *(each.domain for each in model.functions)}
    return sorted({node.domain for graph in all_graphs(model.graph) for node in graph.node} - known)


def _type_name(element: int) -> str:
    return str(TensorProto.DataType.Name(element)).lower()


def _zipped_labels(node: onnx.NodeProto) -> tuple[str, ...]:
    for each in node.attribute:
        if each.name == "classlabels_strings":
            return tuple(value.decode() for value in each.strings)
        if each.name == "classlabels_int64s":
            return tuple(map(str, each.ints))
    return ()


def _first_sums(model: onnx.ModelProto, name: str) -> Iterator[tuple[onnx.NodeProto, Any]]:
    """Yield the nodes that compute with the pixels and a constant before anything else does, with that constant."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
        if name not in node.input[:2]:
            continue
        other = next((each for each in node.input if each != name and each in constants), None)
        if node.op_type in _CARRIED:
            name = node.output[0]
        elif node.op_type in ("Div", "Mul", "Sub", "Add") and other is not None:
            yield node, numpy_helper.to_array(constants[other])
            name = node.output[0]
        else:
            return


def _fit(dims: Sequence[int | None], wanted: Sequence[int]) -> bool:
    return len(dims) == len(wanted) and all(have in (None, want) for have, want in zip(dims, wanted, strict=True))


def _times(shape: Sequence[object]) -> str:
    return "×".join(map(str, shape))


def _shown(given: Input) -> str:
    return _times(["N" if given.batch is None else given.batch, *("?" if dim is None else dim for dim in given.dims)])


def _misfit(given: Input, shape: ImageShape) -> str:
    """Say why images of the data do not fit, and what would."""
    channels, height, width = shape
    told = f"its input is {_shown(given)}, and images come as {_times(shape)} (channels, height, width)"
    dims = given.dims
    if len(dims) == 3 and {dims[0], dims[2]} & {1, 3, channels, None}:
        first = dims[0] in (1, 3, channels, None)
        its = dims[0] if first else dims[2]
        size = dims[1:] if first else dims[:2]
        if its is not None and its != channels and (its, channels) in ((1, 3), (3, 1)):
            kinds = {1: "grey", 3: "colour"}
            return f"{told}: it reads {kinds[its]} images and these are {kinds[channels]}; take {kinds[its]} data"
        if any(have not in (None, want) for have, want in zip(size, (height, width), strict=True)):
            high, wide = (height if size[0] is None else size[0], width if size[1] is None else size[1])
            return (
                f"{told}: the sizes differ. Resize in front of the net, as the board does (--set 'preprocess=[{{name: "
                f"resize, size: [{high}, {wide}]}}]'), or read the data in its size (--set data.size={high})"
            )
    return f"{told}: no order of channels, rows and columns makes one the other"
