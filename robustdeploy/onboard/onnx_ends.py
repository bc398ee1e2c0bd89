"""The ends of an ONNX file, read without the onnx package: names, element types and shapes of its inputs and outputs.

A file is a protobuf message. Its wire format: https://protobuf.dev/programming-guides/encoding; the numbers of the
fields are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import ArtifactError

_GRAPH, _INITIALIZER, _INPUT, _OUTPUT, _TENSOR_NAME = 7, 5, 11, 12, 8
_FLOAT = 1
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


@dataclass(frozen=True)
class End:
    """An input or output of a graph."""

    name: str
    element: int
    """ONNX's number of the type; 1 is float32."""
    shape: tuple[int | None, ...]
    """None where a size is free."""


@dataclass(frozen=True)
class Ends:
    """All inputs and outputs of a graph, without the weights that old files list among the inputs."""

    inputs: tuple[End, ...]
    outputs: tuple[End, ...]


def ends_of(path: Path) -> Ends:
    """Read the ends of the graph in a file; ArtifactError where it is no ONNX file."""
    try:
        graph = next(bytes(value) for number, value in _fields(memoryview(path.read_bytes())) if number == _GRAPH)
        weights: set[str] = set()
        inputs, outputs = [], []
        for number, value in _fields(memoryview(graph)):
            if number == _INITIALIZER:
                weights.update(_text(text) for name, text in _fields(value) if name == _TENSOR_NAME)
            elif number == _INPUT:
                inputs.append(_end(value))
            elif number == _OUTPUT:
                outputs.append(_end(value))
    except (ValueError, IndexError, TypeError, StopIteration, RuntimeError):
        raise ArtifactError(f"{path.name} is not an ONNX file that can be read; export it again") from None
    return Ends(tuple(end for end in inputs if end.name not in weights), tuple(outputs))


def image_shape(path: Path) -> tuple[int, int, int]:
    """Return C, H and W of ``images``; ArtifactError unless the file maps N×C×H×W float32 to ``scores``, N free."""
    ends = ends_of(path)
    names = [[end.name for end in side] for side in (ends.inputs, ends.outputs)]
    if names != [["images"], ["scores"]]:
        raise ArtifactError(f"{path.name} maps {names[0]} to {names[1]}; a net for boards maps 'images' to 'scores'")
    given = ends.inputs[0]
    sizes = [size for size in given.shape[1:] if size is not None and size > 0]
    if given.element != _FLOAT or len(given.shape) != 4 or given.shape[0] is not None or len(sizes) != 3:
        found = f"type {given.element} of shape {list(given.shape)}"
        raise ArtifactError(f"{path.name} takes {found}; it must take float32 (type 1) N×C×H×W with N free")
    if len(shape := ends.outputs[0].shape) != 2 or shape[1] == 0:
        raise ArtifactError(f"{path.name} gives scores of shape {list(shape)}; it must give N×classes")
    return sizes[0], sizes[1], sizes[2]


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the fields of a message by number; whole numbers come as their own bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _LENGTH:
            size, at = _varint(message, at)
        elif kind == _VARINT:
            size = _varint(message, at)[1] - at
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if kind == _EIGHT_BYTES else 4
        else:
            raise ValueError("an unknown kind of field")
        if number == 0 or at + size > len(message):
            raise ValueError("a field beyond the end")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of too many bytes")


def _text(value: memoryview) -> str:
    return bytes(value).decode("utf-8")


def _end(value: memoryview) -> End:
    """Read a ValueInfoProto: name 1, type 2 with tensor_type 1 with elem_type 1 and shape 2 of dim 1."""
    parts = dict(_fields(value))
    tensor = dict(_fields(dict(_fields(parts.get(2, memoryview(b"")))).get(1, memoryview(b""))))
    element = _varint(tensor[1], 0)[0] if 1 in tensor else 0
    sizes = [dict(_fields(dim)) for number, dim in _fields(tensor.get(2, memoryview(b""))) if number == 1]
    shape = tuple(_varint(size[1], 0)[0] if 1 in size else None for size in sizes)
    return End(_text(parts[1]) if 1 in parts else "", element, shape)
