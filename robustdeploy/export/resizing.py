"""Resizing: an exported file with other numbers of channels, made without exporting again.

An export takes seconds and a profile needs hundreds of files, whose times depend on shapes and not on values. Where
the sizes of layers stand in the file is learnt from two exports, and tried on a third.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from robustdeploy.errors import ArtifactError

Sizes = Mapping[str, int]
"""Every number of channels of a net, by a name of its own."""
Exported = tuple[Sizes, onnx.ModelProto]
_SHAPES = 1024
"""Whole numbers of a constant that may be sizes; longer ones are places."""
_NO_WAY = "its latency cannot be profiled by shapes"


@dataclass(frozen=True)
class Resizable:
    """A file, and where the sizes of its layers stand in it."""

    model: onnx.ModelProto
    dims: Mapping[str, tuple[int | str, ...]]
    """Per constant, its shape: numbers, or the names of sizes."""
    values: Mapping[str, tuple[int | str, ...]]
    """Per constant that holds sizes, its values."""
    attributes: Mapping[tuple[int, str], tuple[int | str, ...]]
    """Per node and attribute that holds sizes, its values."""

    def resized(self, sizes: Sizes) -> onnx.ModelProto:
        """Return the file of a net of these sizes; its weights are those of the model, cut or repeated."""

        def now(parts: Sequence[int | str]) -> list[int]:
            return [part if isinstance(part, int) else sizes[part] for part in parts]

        made = onnx.ModelProto()
        made.CopyFrom(self.model)
        for tensor in made.graph.initializer:
            if tensor.name in self.values:
                held = np.array(now(self.values[tensor.name]), np.int64).reshape(tuple(tensor.dims))
                tensor.CopyFrom(numpy_helper.from_array(held, tensor.name))
            elif any(isinstance(part, str) for part in self.dims[tensor.name]):
                held = numpy_helper.to_array(tensor)
                shape = now(self.dims[tensor.name])
                # Whole numbers of 64 bits are places to read from; 0 and 1 are places in whatever there is.
                new = np.resize(np.arange(2), shape) if held.dtype == np.int64 else np.resize(held, shape)
                tensor.CopyFrom(numpy_helper.from_array(new.astype(held.dtype), tensor.name))
        for (number, name), parts in self.attributes.items():
            attribute = next(each for each in made.graph.node[number].attribute if each.name == name)
            _set(attribute, now(parts))
        return made


def learn(one: Exported, two: Exported, three: Exported) -> Resizable:
    """Learn from two files where the sizes of their layers stand, and hold that against a third.

    The sizes that change must differ between the first two, and no two that change apart may do so alike. Raises
    ArtifactError where a file does not follow its sizes.
    """
    known: dict[tuple[int, int], str] = {}
    for name, size in one[0].items():
        known.setdefault((size, two[0][name]), name)
    first, second = one[1], two[1]
    for model in (first, second):
        del model.graph.value_info[:]  # shapes of the export's own
    _check_alike(first, second)
    dims: dict[str, tuple[int | str, ...]] = {}
    values: dict[str, tuple[int | str, ...]] = {}
    for a, b in zip(first.graph.initializer, second.graph.initializer, strict=True):
        dims[a.name] = tuple(_learnt(known, *pair, a.name) for pair in zip(a.dims, b.dims, strict=True))
        if a.data_type == onnx.TensorProto.INT64 and list(a.dims) == list(b.dims):
            ones, others = (numpy_helper.to_array(each).ravel() for each in (a, b))
            if not np.array_equal(ones, others) and len(ones) <= _SHAPES:
                pairs = zip(ones.tolist(), others.tolist(), strict=True)
                values[a.name] = tuple(_learnt(known, x, y, a.name) for x, y in pairs)
    attributes: dict[tuple[int, str], tuple[int | str, ...]] = {}
    for number, (node, other) in enumerate(zip(first.graph.node, second.graph.node, strict=True)):
        for name, (x, y) in _attributes(node, other):
            if x != y:
                pairs = zip(x, y, strict=True)
                attributes[number, name] = tuple(_learnt(known, *pair, f"{node.op_type}.{name}") for pair in pairs)
    learnt = Resizable(first, dims, values, attributes)
    _check_made(learnt.resized(three[0]), three[1])
    return learnt


def _learnt(known: Mapping[tuple[int, int], str], one: int, two: int, where: str) -> int | str:
    if one == two:
        return one
    if (one, two) not in known:
        raise ArtifactError(f"{where} of the exported file follows no layer's channels ({one}, {two}), so {_NO_WAY}")
    return known[one, two]


def _check_alike(one: onnx.ModelProto, two: onnx.ModelProto) -> None:
    kinds = [[node.op_type for node in model.graph.node] for model in (one, two)]
    names = [[tensor.name for tensor in model.graph.initializer] for model in (one, two)]
    if kinds[0] != kinds[1] or len(names[0]) != len(names[1]):
        raise ArtifactError(f"nets of other channel counts are exported to other graphs, so {_NO_WAY}")


def _check_made(made: onnx.ModelProto, exported: onnx.ModelProto) -> None:
    _check_alike(made, exported)
    for a, b in zip(made.graph.initializer, exported.graph.initializer, strict=True):
        if list(a.dims) != list(b.dims):
            found = f"{list(a.dims)} was foretold for {a.name}, and it has {list(b.dims)}"
            raise ArtifactError(f"the exported file does not follow its channels ({found}), so {_NO_WAY}")


def _attributes(a: onnx.NodeProto, b: onnx.NodeProto) -> Iterator[tuple[str, tuple[list[int], list[int]]]]:
    """Yield the whole numbers that two nodes have for each attribute."""
    other = {each.name: each for each in b.attribute}
    for each in a.attribute:
        if each.name in other and each.type in (onnx.AttributeProto.INT, onnx.AttributeProto.INTS):
            yield each.name, (_get(each), _get(other[each.name]))


def _get(attribute: Any) -> list[int]:
    return [attribute.i] if attribute.type == onnx.AttributeProto.INT else list(attribute.ints)


def _set(attribute: Any, values: list[int]) -> None:
    if attribute.type == onnx.AttributeProto.INT:
        attribute.i = values[0]
    else:
        attribute.ints[:] = values
