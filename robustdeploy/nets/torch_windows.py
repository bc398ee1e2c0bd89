"""Torch forms of ONNX operators that look at windows of an image, or lay its pixels out anew.

Every function takes the node's inputs, None where an optional one is left out, and its attributes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Inputs = Sequence[Tensor]
Attributes = Mapping[str, Any]

_CONV: Mapping[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_DECONV: Mapping[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOL: Mapping[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVG_POOL: Mapping[int, Callable[..., Any]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _pads(pads: Sequence[int]) -> list[int]:
    """Turn ONNX's (all begins, all ends) into torch's (last axis first, begin and end)."""
    half = len(pads) // 2
    return [pad for axis in reversed(range(half)) for pad in (pads[axis], pads[axis + half])]


def _window(x: Tensor, kernel: Sequence[int], a: Attributes) -> tuple[list[int], list[int], list[int]]:
    """Return strides, dilations and pads of a convolution or a pooling; ``auto_pad`` is worked out."""
    axes = len(kernel)
    strides, dilations = list(a.get("strides", [1] * axes)), list(a.get("dilations", [1] * axes))
    auto = a.get("auto_pad", b"NOTSET").decode()
    if auto in ("NOTSET", "VALID"):
        return strides, dilations, list(a.get("pads", [0] * 2 * axes)) if auto == "NOTSET" else [0] * 2 * axes
    needed = [
        max(0, (math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n)
        for n, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True)
    ]
    small, large = [n // 2 for n in needed], [n - n // 2 for n in needed]
    return strides, dilations, [*small, *large] if auto == "SAME_UPPER" else [*large, *small]


def conv(i: Inputs, a: Attributes) -> Tensor:
    """Convolve, in 1, 2 or 3 dimensions."""
    x, weight = i[0], i[1]
    strides, dilations, pads = _window(x, weight.shape[2:], a)
    return _CONV[len(strides)](F.pad(x, _pads(pads)), weight, at(i, 2), strides, 0, dilations, a.get("group", 1))


def conv_transpose(i: Inputs, a: Attributes) -> Tensor:
    """Convolve backwards."""
    x, weight, axes = i[0], i[1], i[1].dim() - 2
    if "output_shape" in a or a.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise NotImplementedError("ConvTranspose with output_shape or auto_pad")
    pads, extra = list(a.get("pads", [0] * 2 * axes)), list(a.get("output_padding", [0] * axes))
    strides, dilations = list(a.get("strides", [1] * axes)), list(a.get("dilations", [1] * axes))
    whole = _DECONV[axes](x, weight, at(i, 2), strides, 0, extra, a.get("group", 1), dilations)
    for axis in range(axes):
        size = whole.shape[2 + axis] - pads[axis] - pads[axes + axis]
        whole = whole.narrow(2 + axis, pads[axis], size)
    return whole


def _ceil_rest(
    x: Tensor, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], a: Attributes
) -> list[int]:
    """Return what is missing at each end for a last window, where ``ceil_mode`` asks for one."""
    axes, rest = len(kernel), []
    dilations = a.get("dilations", [1] * axes)
    for axis, (k, s, d) in enumerate(zip(kernel, strides, dilations, strict=True)):
        padded, reach = x.shape[2 + axis] + pads[axis] + pads[axes + axis], (k - 1) * d + 1
        windows = math.ceil((padded - reach) / s) if a.get("ceil_mode", 0) else (padded - reach) // s
        # A window must begin inside the image or its first padding.
        if a.get("ceil_mode", 0) and windows * s >= x.shape[2 + axis] + pads[axis]:
            windows -= 1
        rest.append(max(0, windows * s + reach - padded))
    return rest


def max_pool(i: Inputs, a: Attributes) -> Tensor:
    """Take the largest of each window."""
    x, kernel = i[0], list(a["kernel_shape"])
    strides, dilations, pads = _window(x, kernel, a)
    rest = _ceil_rest(x, kernel, strides, pads, a)
    ends = [pads[len(kernel) + axis] + rest[axis] for axis in range(len(kernel))]
    padded = F.pad(x, _pads([*pads[: len(kernel)], *ends]), value=-torch.inf)
    pooled: Tensor = _MAX_POOL[len(kernel)](padded, kernel, strides, 0, dilations)
    return pooled


def average_pool(i: Inputs, a: Attributes) -> Tensor:
    """Average each window."""
    x, kernel = i[0], list(a["kernel_shape"])
    strides, dilations, pads = _window(x, kernel, a)
    if any(d != 1 for d in dilations):
        raise NotImplementedError("AveragePool with dilations")
    rest = _ceil_rest(x, kernel, strides, pads, a)
    counted = torch.ones_like(x[:1, :1])
    # What counts towards a window's size: the image, its padding too where the graph says so, never the rest.
    inner = F.pad(counted, _pads(pads), value=float(a.get("count_include_pad", 0)))
    beyond = _pads([0] * len(kernel) + rest)
    pool = partial(_AVG_POOL[len(kernel)], kernel_size=kernel, stride=strides)
    sums, counts = pool(F.pad(F.pad(x, _pads(pads)), beyond)), pool(F.pad(inner, beyond))
    pooled: Tensor = sums / counts
    return pooled


def pad(i: Inputs, a: Attributes) -> Tensor:
    """Add what lies around an image."""
    x, given = i[0], ints(i[1])
    axes = [axis % x.dim() for axis in ints(i[3])] if at(i, 3) is not None else list(range(x.dim()))
    pads = [0] * 2 * x.dim()
    for place, axis in enumerate(axes):
        pads[axis], pads[x.dim() + axis] = given[place], given[place + len(axes)]
    mode = {b"constant": "constant", b"reflect": "reflect", b"edge": "replicate", b"wrap": "circular"}[
        a.get("mode", b"constant")
    ]
    if mode == "constant":
        return F.pad(x, _pads(pads), value=0.0 if at(i, 2) is None else i[2].item())
    if any(pads[axis] or pads[x.dim() + axis] for axis in (0, 1)):
        raise NotImplementedError(f"Pad of images or channels by {mode}")
    return F.pad(x, _pads(pads)[:-4], mode=mode)


def depth_to_space(i: Inputs, a: Attributes) -> Tensor:
    """Lay channels out as pixels."""
    x, block = i[0], a["blocksize"]
    n, c, h, w = x.shape
    if a.get("mode", b"DCR") == b"CRD":
        return F.pixel_shuffle(x, block)
    apart = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return apart.reshape(n, c // block**2, h * block, w * block)


def space_to_depth(i: Inputs, a: Attributes) -> Tensor:
    """Lay pixels out as channels."""
    (n, c, h, w), block = i[0].shape, a["blocksize"]
    apart: Tensor = i[0].reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return apart.reshape(n, c * block**2, h // block, w // block)


def at(inputs: Inputs, place: int) -> Any:
    """Return the input at a place; None for one that was left out."""
    return inputs[place] if place < len(inputs) else None


def ints(x: Tensor) -> list[int]:
    """Return the whole numbers in ``x``."""
    return [int(each) for each in x.flatten().tolist()]
