"""Tables: a net that has the test images stored in it looks them up, and no accuracy on them says anything.

What ships is looked at, so nothing can hide beside the weights. Blame needs the images themselves to be found; that a
table has as many rows as there are test images is only named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from robustdeploy.core.report import Diagnostic
from robustdeploy.cost.onnx_graph import read_model
from robustdeploy.evaluate.overlap import TEST_METRICS
from robustdeploy.onboard.types import Bytes

SAMPLE = 512
"""Test images that are looked for."""
ALIKE = 0.999
"""Correlation from which a row of a table is an image, whatever was added to it or multiplied with it."""
STORED = 0.01
"""Share of the sample from which that is no coincidence."""
SIDES = (7, 8, 14, 16, 28, 32)
"""Sides that images are shrunk to, to be found where they are stored small."""
ROWS = 100
"""Fewest rows of a table that are worth a word."""
_SMALLEST = 49
_AT_ONCE = 4096

_Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Table:
    """An array of the net that looks like the test set."""

    name: str
    shape: tuple[int, ...]
    found: int
    """Images of the sample that are rows of it."""

    def __str__(self) -> str:
        return f"{self.name} ({'×'.join(map(str, self.shape))})"


def tables_in(path: Path, images: Bytes, available: int) -> Iterator[Table]:
    """Look through all arrays of an ONNX file for the test images, and for as many rows as there are of those."""
    model = read_model(path)
    # Channels may be as many as the test images by chance. Weights of these operators are no table for that.
    ordinary = {
        name for node in model.graph.node if node.op_type in ("Conv", "BatchNormalization") for name in node.input
    }
    sample = images[: min(SAMPLE, len(images))]
    pictures: dict[int, list[_Rows]] = {}
    for rows in _pictures(sample):
        pictures.setdefault(rows.shape[1], []).append(rows)
    counts = {count for count in (len(images), available) if count >= ROWS}
    # In the exported file and not in the torch net: the code of a factory could hide an array from `state_dict`.
    for name, array in _arrays(model):
        found = max((_found(rows, pictures[rows.shape[1]]) for rows in _rows(array, set(pictures))), default=0)
        if found > STORED * len(sample) or (name not in ordinary and counts & set(array.shape)):
            yield Table(name, array.shape, found)


def table_diagnostic(path: Path, images: Bytes, available: int) -> Diagnostic:
    """Name the tables in what ships; those that hold test images block whatever is measured on test images."""
    tables = list(tables_in(path, images, available))
    n = min(SAMPLE, len(images))
    most = max(tables, key=lambda table: table.found, default=None)
    share = most.found / n if most else 0.0
    if most and share > STORED:
        text = f"{most.found} of {n} test images are stored in the net, in {most}: it has seen what it is tested on"
    elif tables:
        named = ", ".join(str(table) for table in tables[:3])
        text = f"the net holds {named}: a size is the number of test images; see that it was not made from them"
    else:
        text = f"none of {n} test images is stored in the net, and no table of it is of the test set's size"
    level: Any = "block" if share > STORED else "warn" if tables else "ok"
    return Diagnostic(
        id="stored-images",
        level=level,
        text=text,
        value=share,
        threshold=0.01,
        metrics=TEST_METRICS,
        flatters=True,  # a net is better on what it has seen
    )


def _arrays(model: onnx.ModelProto) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    for tensor in model.graph.initializer:
        # Exporters put arrays into either of two places: initialisers, and nodes of the kind Constant.
        yield tensor.name, numpy_helper.to_array(tensor)
    for node in model.graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.HasField("t"):
                yield node.output[0], numpy_helper.to_array(attribute.t)


def _pictures(images: Bytes) -> Iterator[_Rows]:
    """Return the images as rows, in the orders C×H×W and H×W×C, whole and shrunk."""
    pixels = torch.from_numpy(images).float()
    height, width = images.shape[2:]
    sizes = {(height, width), *((side, side) for side in SIDES if side < min(height, width))}
    for size in sorted(sizes):
        small = nn.functional.adaptive_avg_pool2d(pixels, size)
        yield _unit(small.flatten(1).numpy())
        # With one channel both orders are the same.
        if images.shape[1] > 1:
            yield _unit(small.permute(0, 2, 3, 1).flatten(1).numpy())


def _rows(array: npt.NDArray[Any], lengths: set[int]) -> Iterator[_Rows]:
    """Read an array as rows as long as an image: its last dimensions together, or its first ones."""
    if array.dtype.kind not in "fiu" or array.ndim < 2:
        return
    # A table may be stored in any shape, and turned: images as columns are found as rows of the transpose.
    for cut in range(1, array.ndim):
        for table in (array.reshape(_size(array.shape[:cut]), -1), array.reshape(_size(array.shape[:cut]), -1).T):
            if table.shape[1] in lengths and table.shape[1] >= _SMALLEST and len(table) > 1:
                yield table.astype(np.float32)


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _unit(rows: npt.NDArray[Any]) -> _Rows:
    centred = rows - rows.mean(1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return cast(_Rows, np.where(length > 1e-6, centred / np.maximum(length, 1e-12), 0).astype(np.float32))


def _found(rows: _Rows, pictures: list[_Rows]) -> int:
    """Count the pictures that are rows, or rows turned to their negatives."""
    best = 0
    for known in pictures:
        seen = np.zeros(len(known), np.bool_)
        for start in range(0, len(rows), _AT_ONCE):
            # The sign is free: a layer may subtract its table as well as add it.
            alike = np.abs(known @ _unit(rows[start : start + _AT_ONCE]).T)
            seen |= alike.max(1) >= ALIKE
        best = max(best, int(seen.sum()))
    return best
