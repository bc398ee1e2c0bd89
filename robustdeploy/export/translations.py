"""Translations: torch operators that torch's own exporter has no ONNX form of, written with operators that ONNX has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return what ``torch.onnx.export`` takes as its table of further translations."""
    return {
        torch.ops.aten.adaptive_max_pool2d.default: _adaptive_max_pool,
        torch.ops.aten.adaptive_max_pool3d.default: _adaptive_max_pool,
    }


def _adaptive_max_pool(images: Any, output_size: Sequence[int]) -> Any:
    """Take the maximum over one axis after the other, in torch's own windows: the same numbers exactly.

    Torch also gives where each maximum was. That is not worked out here: what stands for it has another shape, so a net
    that reads it gives no scores.
    """
    from onnxscript import opset18 as op

    shape = images.shape
    for axis, count in enumerate(output_size, len(shape) - len(output_size)):
        size = int(shape[axis])
        if size == count:
            continue
        parts = []
        for place in range(count):
            # torch's own windows: they overlap where the size does not divide, so no fixed pooling gives the same.
            start, end = place * size // count, -(-(place + 1) * size // count)
            window = op.Slice(images, _constant(op, start), _constant(op, end), _constant(op, axis))
            parts.append(op.ReduceMax(window, _constant(op, axis), keepdims=1))
        images = op.Concat(*parts, axis=axis) if len(parts) > 1 else parts[0]
    # The operator has two results, and the exporter asks for both.
    return images, op.Shape(images)


def _constant(op: Any, number: int) -> Any:
    return op.Constant(value_ints=[number])
