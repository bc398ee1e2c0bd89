"""Operators: convolutions and matrix products with packed weights, written so that `schedule` can tile them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple
from typing import Any

import numpy as np
import numpy.typing as npt

from .folding import constant_of, sizes_of
from .vectors import Tile, Vectors, depthwise_tile_for, lanes_for, tile_for

Array = npt.NDArray[Any]
Legalize = Callable[[Any, Any], Any]

TILED, DEPTHWISE, BORDER = "tiled", "depthwise", "border"
"""Names of the blocks that `schedule` knows."""
TILE = "robustdeploy.tile"
"""The block's annotation that says how it is tiled."""
_FUSES_WHAT_FOLLOWS = 4  # TVM's kOutEWiseFusable


def legalizations(tvm: Any, vectors: Vectors) -> Mapping[str, Legalize]:
    """Return how the operators that matter are written down; whatever does not fit is written as TVM does."""
    rules = {"relax.nn.conv2d": _convolution, "relax.matmul": _product}
    return {name: _or_default(tvm, name, rule, vectors) for name, rule in rules.items()}


def _or_default(tvm: Any, name: str, rule: Callable[..., Any], vectors: Vectors) -> Legalize:
    default = tvm.ir.Op.get(name).get_attr("FLegalize")

    def legalize(builder: Any, call: Any) -> Any:
        ours = rule(tvm, vectors, builder, call)
        return default(builder, call) if ours is None else ours

    return legalize


def _convolution(tvm: Any, vectors: Vectors, builder: Any, call: Any) -> Any:
    attrs, shape, out = call.attrs, sizes_of(call.args[0].ty), sizes_of(call.ty)
    weights = constant_of(tvm, builder, call.args[1])
    layouts = (attrs.data_layout, attrs.kernel_layout, attrs.out_layout)
    if layouts != ("NHWC", "HWIO", "NHWC") or shape is None or out is None or weights is None:
        return None
    if weights.dtype != np.float32 or call.ty.dtype != "float32":
        return None
    groups = int(attrs.groups)
    place = _Place.of(attrs, shape, out)
    if groups == shape[3] == out[3] and groups > 1:
        tile = depthwise_tile_for(out[2], groups, vectors)
        packed = weights.reshape(*weights.shape[:2], groups)
        return _emit(tvm, builder, _depthwise(tvm, place, tile), call.args[0], packed, "depthwise")
    if lanes_for(out[3] // groups, vectors) < min(4, vectors.lanes):
        return None
    if groups == 1:
        weights = _trimmed(weights)
    # A tile lies inside of one group, so that all of it reads the same channels.
    tile = tile_for(out[1], out[2], out[3] // groups, int(np.prod(weights.shape[:3])), vectors)
    blocks = out[3] // tile.lanes
    packed = np.ascontiguousarray(np.moveaxis(weights.reshape(*weights.shape[:3], blocks, tile.lanes), 3, 0))
    return _emit(tvm, builder, _tiled(tvm, place, groups, tile), call.args[0], packed, "conv2d")


def _trimmed(weights: Array) -> Array:
    """Leave out the last inputs where they count for nothing: channels that `padding` added before."""
    used = np.flatnonzero(weights.any(axis=(0, 1, 3)))
    return weights[:, :, : used[-1] + 1] if len(used) else weights[:, :, :1]


class _Place:
    """Where a convolution reads: sizes, strides, dilation and the border of zeros."""

    def __init__(self, shape: tuple[int, ...], out: tuple[int, ...], stride: Any, dilation: Any, border: Any) -> None:
        self.shape, self.out, self.stride, self.dilation, self.border = shape, out, stride, dilation, border

    @classmethod
    def of(cls, attrs: Any, shape: tuple[int, ...], out: tuple[int, ...]) -> _Place:
        stride, dilation = ([int(size) for size in of] for of in (attrs.strides, attrs.dilation))
        return cls(shape, out, stride, dilation, [int(size) for size in attrs.padding])

    def bordered(self, tvm: Any, data: Any) -> Any:
        """Write ``data`` with its border of zeros; without one, ``data`` itself."""
        if not any(self.border):
            return data
        top, left, bottom, right = self.border
        n, height, width, channels = self.shape

        def value(i: Any, y: Any, x: Any, c: Any) -> Any:
            inside = tvm.tirx.all(y >= top, y < height + top, x >= left, x < width + left)
            zero = tvm.tirx.const(0, data.dtype)
            return tvm.tirx.if_then_else(inside, data[i, y - top, x - left, c], zero)

        return tvm.te.compute((n, height + top + bottom, width + left + right, channels), value, name=BORDER)


def _tiled(tvm: Any, place: _Place, groups: int, tile: Tile) -> Callable[[Any, Any], Any]:
    te = tvm.te

    def written(data: Any, weights: Any) -> Any:
        _, high, wide, depth, width = (int(size) for size in weights.shape)
        source = place.bordered(tvm, data)
        ry, rx, rc = te.reduce_axis((0, high), "ry"), te.reduce_axis((0, wide), "rx"), te.reduce_axis((0, depth), "rc")
        outs = place.out[3] // groups

        def value(n: Any, y: Any, x: Any, f: Any) -> Any:
            row, column = y * place.stride[0] + ry * place.dilation[0], x * place.stride[1] + rx * place.dilation[1]
            channel = rc if groups == 1 else f // outs * depth + rc
            return te.sum(
                source[n, row, column, channel] * weights[f // width, ry, rx, rc, f % width], axis=[ry, rx, rc]
            )

        return te.compute(place.out, value, name=TILED, attrs={TILE: astuple(tile)})

    return written


def _depthwise(tvm: Any, place: _Place, tile: Tile) -> Callable[[Any, Any], Any]:
    te = tvm.te

    def written(data: Any, weights: Any) -> Any:
        source = place.bordered(tvm, data)
        ry, rx = (
            te.reduce_axis((0, int(size)), name) for size, name in zip(weights.shape[:2], ("ry", "rx"), strict=True)
        )

        def value(n: Any, y: Any, x: Any, c: Any) -> Any:
            row, column = y * place.stride[0] + ry * place.dilation[0], x * place.stride[1] + rx * place.dilation[1]
            return te.sum(source[n, row, column, c] * weights[ry, rx, c], axis=[ry, rx])

        return te.compute(place.out, value, name=DEPTHWISE, attrs={TILE: astuple(tile)})

    return written


def _product(tvm: Any, vectors: Vectors, builder: Any, call: Any) -> Any:
    shape, out, weights = sizes_of(call.args[0].ty), sizes_of(call.ty), constant_of(tvm, builder, call.args[1])
    if shape is None or out is None or weights is None or weights.ndim != 2 or weights.dtype != np.float32:
        return None
    if call.ty.dtype != "float32" or len(shape) < 2 or lanes_for(out[-1], vectors) < min(4, vectors.lanes):
        return None
    te = tvm.te
    tile = tile_for(1, out[-2], out[-1], shape[-1], vectors)
    packed = np.ascontiguousarray(np.moveaxis(weights.reshape(shape[-1], -1, tile.lanes), 1, 0))

    def written(data: Any, matrix: Any) -> Any:
        depth, width = (int(size) for size in matrix.shape[1:])
        k = te.reduce_axis((0, depth), "k")

        def value(*at: Any) -> Any:
            f = at[-1]
            return te.sum(data[(*at[:-1], k)] * matrix[f // width, k, f % width], axis=[k])

        return te.compute(out, value, name=TILED, attrs={TILE: astuple(tile)})

    return _emit(tvm, builder, written, call.args[0], packed, "dense")


def _emit(tvm: Any, builder: Any, written: Callable[[Any, Any], Any], data: Any, packed: Array, name: str) -> Any:
    return builder.call_te(
        written,
        data,
        tvm.relax.const(packed),
        primfunc_name_hint=name,
        primfunc_attrs={"op_pattern": _FUSES_WHAT_FOLLOWS},
    )
