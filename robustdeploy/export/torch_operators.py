"""Torch forms of ONNX operators, so that a graph can be differentiated. See https://onnx.ai/onnx/operators/ for each.

Every function takes the node's inputs, None where an optional one is left out, and its attributes. Only operators of
the default domain are here, in the versions that opsets 18 to 23 hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import Tensor

Inputs = Sequence[Tensor]
Attributes = Mapping[str, Any]
Operator = Callable[[Inputs, Attributes], Any]


def rounded_through(x: Tensor) -> Tensor:
    """Round to whole numbers, ties to even; the gradient passes as if nothing were rounded (Bengio et al., 2013)."""
    return x + (x.round() - x).detach()


def half_through(x: Tensor) -> Tensor:
    """Round to what a 16-bit float holds; the gradient passes as if nothing were rounded."""
    return x + (x.half().to(x.dtype) - x).detach()


def torch_type(elem_type: int) -> torch.dtype:
    """Return the torch type of an ONNX one; 16-bit floats are kept in 32 bits and rounded, as a CPU computes them."""
    if elem_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        return torch.float32
    return torch.from_numpy(np.zeros(1, helper.tensor_dtype_to_np_dtype(elem_type))).dtype


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


_CONV: Mapping[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_DECONV: Mapping[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOL: Mapping[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVG_POOL: Mapping[int, Callable[..., Any]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _conv(i: Inputs, a: Attributes) -> Tensor:
    x, weight = i[0], i[1]
    strides, dilations, pads = _window(x, weight.shape[2:], a)
    return _CONV[len(strides)](F.pad(x, _pads(pads)), weight, _at(i, 2), strides, 0, dilations, a.get("group", 1))


def _conv_transpose(i: Inputs, a: Attributes) -> Tensor:
    x, weight, axes = i[0], i[1], i[1].dim() - 2
    if "output_shape" in a or a.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise NotImplementedError("ConvTranspose with output_shape or auto_pad")
    pads, extra = list(a.get("pads", [0] * 2 * axes)), list(a.get("output_padding", [0] * axes))
    strides, dilations = list(a.get("strides", [1] * axes)), list(a.get("dilations", [1] * axes))
    whole = _DECONV[axes](x, weight, _at(i, 2), strides, 0, extra, a.get("group", 1), dilations)
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


def _max_pool(i: Inputs, a: Attributes) -> Tensor:
    x, kernel = i[0], list(a["kernel_shape"])
    strides, dilations, pads = _window(x, kernel, a)
    rest = _ceil_rest(x, kernel, strides, pads, a)
    ends = [pads[len(kernel) + axis] + rest[axis] for axis in range(len(kernel))]
    padded = F.pad(x, _pads([*pads[: len(kernel)], *ends]), value=-torch.inf)
    pooled: Tensor = _MAX_POOL[len(kernel)](padded, kernel, strides, 0, dilations)
    return pooled


def _average_pool(i: Inputs, a: Attributes) -> Tensor:
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


def _gemm(i: Inputs, a: Attributes) -> Tensor:
    left = i[0].t() if a.get("transA", 0) else i[0]
    right = i[1].t() if a.get("transB", 0) else i[1]
    product: Tensor = a.get("alpha", 1.0) * (left @ right)
    return product if _at(i, 2) is None else product + a.get("beta", 1.0) * i[2]


def _batch_norm(i: Inputs, a: Attributes) -> Tensor:
    return F.batch_norm(i[0], i[3], i[4], i[1], i[2], False, 0.0, a.get("epsilon", 1e-5))


def _layer_norm(i: Inputs, a: Attributes) -> Tensor:
    return F.layer_norm(i[0], i[0].shape[a.get("axis", -1) :], i[1], _at(i, 2), a.get("epsilon", 1e-5))


def _instance_norm(i: Inputs, a: Attributes) -> Tensor:
    return F.instance_norm(i[0], None, None, i[1], i[2], True, 0.0, a.get("epsilon", 1e-5))


def _group_norm(i: Inputs, a: Attributes) -> Tensor:
    return F.group_norm(i[0], a["num_groups"], i[1], i[2], a.get("epsilon", 1e-5))


def _axes(i: Inputs, a: Attributes, x: Tensor) -> list[int] | None:
    """Return the axes of a reduction, from its second input or its attribute; None for a node that does nothing."""
    given = _ints(i[1]) if _at(i, 1) is not None else list(a.get("axes", []))
    if not given and a.get("noop_with_empty_axes", 0):
        return None
    return given or list(range(x.dim()))


def _reduction(compute: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def operator(i: Inputs, a: Attributes) -> Tensor:
        axes = _axes(i, a, i[0])
        return i[0] if axes is None else compute(i[0], axes, bool(a.get("keepdims", 1)))

    return operator


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _slice(i: Inputs, a: Attributes) -> Tensor:
    x, starts, ends = i[0], _ints(i[1]), _ints(i[2])
    axes = _ints(i[3]) if _at(i, 3) is not None else list(range(len(starts)))
    steps = _ints(i[4]) if _at(i, 4) is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        indices = range(x.shape[axis])[slice(start, end if step > 0 or end >= -x.shape[axis] else None, step)]
        if step == 1:
            x = x.narrow(axis, indices.start, len(indices))
        else:
            x = x.index_select(axis, torch.tensor(list(indices), dtype=torch.int64, device=x.device))
    return x


def _split(i: Inputs, a: Attributes) -> tuple[Tensor, ...]:
    x, axis = i[0], a.get("axis", 0)
    if _at(i, 1) is not None:
        return torch.split(x, _ints(i[1]), axis)
    return torch.split(x, math.ceil(x.shape[axis] / a["num_outputs"]), axis)


def _gather(i: Inputs, a: Attributes) -> Tensor:
    x, axis = i[0], a.get("axis", 0) % i[0].dim()
    indices = torch.where(i[1] < 0, i[1] + x.shape[axis], i[1])
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return x.index_select(axis, indices.flatten().long()).reshape(shape)


def _gather_elements(i: Inputs, a: Attributes) -> Tensor:
    axis = a.get("axis", 0)
    gathered: Tensor = i[0].gather(axis, torch.where(i[1] < 0, i[1] + i[0].shape[axis], i[1]))
    return gathered


def _gather_nd(i: Inputs, a: Attributes) -> Tensor:
    if a.get("batch_dims", 0):
        raise NotImplementedError("GatherND with batch_dims")
    gathered: Tensor = i[0][tuple(i[1].unbind(-1))]
    return gathered


def _reshape(i: Inputs, a: Attributes) -> Tensor:
    sizes = _ints(i[1])
    if not a.get("allowzero", 0):
        sizes = [i[0].shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    reshaped: Tensor = i[0].reshape(sizes)
    return reshaped


def _flatten(i: Inputs, a: Attributes) -> Tensor:
    axis = a.get("axis", 1)
    flat: Tensor = i[0].reshape(math.prod(i[0].shape[: axis if axis >= 0 else axis + i[0].dim()]), -1)
    return flat


def _squeeze(i: Inputs, a: Attributes) -> Tensor:
    squeezed: Tensor = i[0].squeeze(_ints(i[1])) if _at(i, 1) is not None else i[0].squeeze()
    return squeezed


def _unsqueeze(i: Inputs, a: Attributes) -> Tensor:
    axes = _ints(i[1])
    x, rank = i[0], i[0].dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _expand(i: Inputs, a: Attributes) -> Tensor:
    expanded: Tensor = i[0].expand(np.broadcast_shapes(tuple(i[0].shape), tuple(_ints(i[1]))))
    return expanded


def _pad(i: Inputs, a: Attributes) -> Tensor:
    x, given = i[0], _ints(i[1])
    axes = [axis % x.dim() for axis in _ints(i[3])] if _at(i, 3) is not None else list(range(x.dim()))
    pads = [0] * 2 * x.dim()
    for place, axis in enumerate(axes):
        pads[axis], pads[x.dim() + axis] = given[place], given[place + len(axes)]
    mode = {b"constant": "constant", b"reflect": "reflect", b"edge": "replicate", b"wrap": "circular"}[
        a.get("mode", b"constant")
    ]
    if mode == "constant":
        return F.pad(x, _pads(pads), value=0.0 if _at(i, 2) is None else i[2].item())
    if any(pads[axis] or pads[x.dim() + axis] for axis in (0, 1)):
        raise NotImplementedError(f"Pad of images or channels by {mode}")
    return F.pad(x, _pads(pads)[:-4], mode=mode)


def _resize(i: Inputs, a: Attributes) -> Tensor:
    x, mode = i[0], a.get("mode", b"nearest").decode()
    where = a.get("coordinate_transformation_mode", b"half_pixel").decode()
    if a.get("axes") or a.get("antialias", 0) or a.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise NotImplementedError("Resize with axes, antialias or another aspect ratio")
    if _at(i, 3) is not None and i[3].numel():
        size = _ints(i[3])
    else:
        size = [int(n * s) for n, s in zip(x.shape, i[2].tolist(), strict=True)]
    if mode == "nearest" and (where, a.get("nearest_mode", b"round_prefer_floor")) == ("asymmetric", b"floor"):
        return F.interpolate(x, size[2:], mode="nearest")
    smooth = {"linear": {3: "linear", 4: "bilinear", 5: "trilinear"}.get(x.dim()), "cubic": "bicubic"}.get(mode)
    if smooth is None or where not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        raise NotImplementedError(f"Resize by {mode}, {where}")
    if mode == "cubic" and a.get("cubic_coeff_a", -0.75) != -0.75:
        raise NotImplementedError("Resize by another cubic")
    return F.interpolate(x, size[2:], mode=smooth, align_corners=where == "align_corners")


def _depth_to_space(i: Inputs, a: Attributes) -> Tensor:
    x, block = i[0], a["blocksize"]
    n, c, h, w = x.shape
    if a.get("mode", b"DCR") == b"CRD":
        return F.pixel_shuffle(x, block)
    apart = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return apart.reshape(n, c // block**2, h * block, w * block)


def _space_to_depth(i: Inputs, a: Attributes) -> Tensor:
    (n, c, h, w), block = i[0].shape, a["blocksize"]
    apart: Tensor = i[0].reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return apart.reshape(n, c * block**2, h // block, w // block)


def _clip(i: Inputs, a: Attributes) -> Tensor:
    low, high = _at(i, 1), _at(i, 2)
    clipped = i[0] if low is None else torch.maximum(i[0], low)
    return clipped if high is None else torch.minimum(clipped, high)


def _cast(i: Inputs, a: Attributes) -> Tensor:
    to = torch_type(a["to"])
    # A copy of the net in float64 stays in float64.
    if to == torch.float32 and i[0].is_floating_point():
        return i[0]
    cast: Tensor = i[0].to(to)
    return cast


def _constant_of_shape(i: Inputs, a: Attributes) -> Tensor:
    value = a.get("value")
    fill = torch.zeros(1) if value is None else torch.from_numpy(np.array(value))
    return torch.full(_ints(i[0]), fill.item(), dtype=fill.dtype, device=i[0].device)


def _range(i: Inputs, a: Attributes) -> Tensor:
    return torch.arange(i[0].item(), i[1].item(), i[2].item(), dtype=i[0].dtype, device=i[0].device)


def _shape(i: Inputs, a: Attributes) -> Tensor:
    shape = list(i[0].shape)[a.get("start", 0) : a.get("end")]
    return torch.tensor(shape, dtype=torch.int64, device=i[0].device)


def _argmax(i: Inputs, a: Attributes) -> Tensor:
    if a.get("select_last_index", 0):
        raise NotImplementedError("ArgMax of the last index")
    found: Tensor = i[0].argmax(a.get("axis", 0), keepdim=bool(a.get("keepdims", 1)))
    return found


def _divide(i: Inputs, a: Attributes) -> Tensor:
    whole = not i[0].is_floating_point()
    return torch.div(i[0], i[1], rounding_mode="trunc" if whole else None)


def _gelu(i: Inputs, a: Attributes) -> Tensor:
    return F.gelu(i[0], approximate=a.get("approximate", b"none").decode())


def _hard_sigmoid(i: Inputs, a: Attributes) -> Tensor:
    line: Tensor = a.get("alpha", 0.2) * i[0] + a.get("beta", 0.5)
    return line.clamp(0, 1)


def _prelu(i: Inputs, a: Attributes) -> Tensor:
    return torch.where(i[0] < 0, i[0] * i[1], i[0])


def _thresholded(i: Inputs, a: Attributes) -> Tensor:
    return torch.where(i[0] > a.get("alpha", 1.0), i[0], torch.zeros_like(i[0]))


def _lrn(i: Inputs, a: Attributes) -> Tensor:
    return F.local_response_norm(i[0], a["size"], a.get("alpha", 1e-4), a.get("beta", 0.75), a.get("bias", 1.0))


def _dropout(i: Inputs, a: Attributes) -> Any:
    if _at(i, 2) is not None and bool(i[2]):
        raise NotImplementedError("Dropout while training")
    return i[0]


_Q_RANGE = {torch.uint8: (0, 255), torch.int8: (-128, 127), torch.int16: (-32768, 32767), torch.uint16: (0, 65535)}


def _along(x: Tensor, values: Tensor, axis: int) -> Tensor:
    """Lay one value per channel along ``axis`` of ``x``."""
    if values.numel() == 1:
        return values.reshape(())
    shape = [1] * x.dim()
    shape[axis] = -1
    return values.reshape(shape)


def _quantize(i: Inputs, a: Attributes) -> Tensor:
    if a.get("block_size", 0):
        raise NotImplementedError("QuantizeLinear in blocks")
    x, zero = i[0], _at(i, 2)
    kind = torch.uint8 if zero is None else zero.dtype
    if kind not in _Q_RANGE:
        raise NotImplementedError(f"QuantizeLinear to {kind}")
    low, high = _Q_RANGE[kind]
    axis = a.get("axis", 1)
    steps = rounded_through(x / _along(x, i[1], axis))
    if zero is not None:
        steps = steps + _along(x, zero, axis).to(x.dtype)
    # Kept as floats: what is beyond the range has no gradient, what is inside passes it through.
    return steps.clamp(low, high)


def _dequantize(i: Inputs, a: Attributes) -> Tensor:
    if a.get("block_size", 0):
        raise NotImplementedError("DequantizeLinear in blocks")
    x, scale, zero, axis = i[0], i[1], _at(i, 2), a.get("axis", 1)
    steps = x.to(scale.dtype)
    if zero is not None:
        steps = steps - _along(x, zero, axis).to(scale.dtype)
    steps = steps * _along(x, scale, axis)
    return steps


def _recurrent(kind: str) -> Operator:
    """LSTM, GRU or RNN by torch's own layers, with the gates in torch's order."""
    order = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}[kind]

    def operator(i: Inputs, a: Attributes) -> tuple[Tensor, ...]:
        x, weight, again, bias, hidden = i[0], i[1], i[2], _at(i, 3), a["hidden_size"]
        usual = not a.get("layout", 0) and "activations" not in a and "clip" not in a and not a.get("input_forget", 0)
        if not usual or any(_at(i, place) is not None for place in (4, 7)) or a.get("direction") == b"reverse":
            raise NotImplementedError(f"{kind} with unusual attributes")
        if kind == "GRU" and not a.get("linear_before_reset", 0):
            raise NotImplementedError("GRU that resets before the product")
        ways = weight.shape[0]

        def gates(rows: Tensor) -> Tensor:
            return torch.cat([rows.reshape(len(order), hidden, *rows.shape[1:])[gate] for gate in order])

        flat = []
        for way in range(ways):
            flat += [gates(weight[way]), gates(again[way])]
            both = torch.zeros(2 * len(order) * hidden, dtype=x.dtype, device=x.device) if bias is None else bias[way]
            flat += [gates(half) for half in both.chunk(2)]
        first = x.new_zeros(ways, x.shape[1], hidden)
        state = _at(i, 5) if _at(i, 5) is not None else first
        arguments = (flat, True, 1, 0.0, False, ways == 2, False)
        if kind == "LSTM":
            cell = _at(i, 6) if _at(i, 6) is not None else first
            out, last, last_cell = torch.lstm(x, (state, cell), *arguments)
            told: tuple[Tensor, ...] = (out, last, last_cell)
        else:
            out, last = (torch.gru if kind == "GRU" else torch.rnn_tanh)(x, state, *arguments)
            told = (out, last)
        # ONNX keeps the directions apart: T×D×N×H.
        return (told[0].reshape(*x.shape[:2], ways, hidden).transpose(1, 2), *told[1:])

    return operator


def _at(inputs: Inputs, place: int) -> Any:
    return inputs[place] if place < len(inputs) else None


def _ints(x: Tensor) -> list[int]:
    return [int(each) for each in x.flatten().tolist()]


def _one(compute: Callable[[Tensor], Tensor]) -> Operator:
    return lambda i, a: compute(i[0])


def _two(compute: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda i, a: compute(i[0], i[1])


def _many(compute: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda i, a: reduce(compute, i)


OPERATORS: Mapping[str, Operator] = {
    "Abs": _one(torch.abs),
    "Add": _two(torch.add),
    "And": _two(torch.logical_and),
    "ArgMax": _argmax,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Ceil": _one(torch.ceil),
    "Celu": lambda i, a: F.celu(i[0], a.get("alpha", 1.0)),
    "Clip": _clip,
    "Concat": lambda i, a: torch.cat(list(i), a["axis"]),
    "ConstantOfShape": _constant_of_shape,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Cos": _one(torch.cos),
    "CumSum": lambda i, a: torch.cumsum(i[0], int(i[1])),
    "DepthToSpace": _depth_to_space,
    "DequantizeLinear": _dequantize,
    "Div": _divide,
    "Dropout": _dropout,
    "Einsum": lambda i, a: torch.einsum(a["equation"].decode(), *i),
    "Elu": lambda i, a: F.elu(i[0], a.get("alpha", 1.0)),
    "Equal": _two(torch.eq),
    "Erf": _one(torch.erf),
    "Exp": _one(torch.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _one(torch.floor),
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda i, a: i[0].mean(tuple(range(2, i[0].dim())), keepdim=True),
    "GlobalMaxPool": lambda i, a: i[0].amax(tuple(range(2, i[0].dim())), keepdim=True),
    "Greater": _two(torch.gt),
    "GreaterOrEqual": _two(torch.ge),
    "GroupNormalization": _group_norm,
    "GRU": _recurrent("GRU"),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _one(F.hardswish),
    "Identity": _one(lambda x: x),
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda i, a: F.leaky_relu(i[0], a.get("alpha", 0.01)),
    "Less": _two(torch.lt),
    "LessOrEqual": _two(torch.le),
    "Log": _one(torch.log),
    "LogSoftmax": lambda i, a: F.log_softmax(i[0], a.get("axis", -1)),
    "LRN": _lrn,
    "LSTM": _recurrent("LSTM"),
    "MatMul": _two(torch.matmul),
    "Max": _many(torch.maximum),
    "MaxPool": _max_pool,
    "Mean": lambda i, a: reduce(torch.add, i) / len(i),
    "Min": _many(torch.minimum),
    "Mish": _one(F.mish),
    "Mod": lambda i, a: torch.fmod(i[0], i[1]) if a.get("fmod", 0) else torch.remainder(i[0], i[1]),
    "Mul": _two(torch.mul),
    "Neg": _one(torch.neg),
    "Not": _one(torch.logical_not),
    "Or": _two(torch.logical_or),
    "Pad": _pad,
    "Pow": _two(torch.pow),
    "PRelu": _prelu,
    "QuantizeLinear": _quantize,
    "Range": _range,
    "Reciprocal": _one(torch.reciprocal),
    "ReduceL1": _reduction(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
    "ReduceL2": _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt()),
    "ReduceLogSumExp": _reduction(lambda x, axes, keep: x.logsumexp(axes, keepdim=keep)),
    "ReduceMax": _reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMean": _reduction(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceMin": _reduction(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
    "Relu": _one(torch.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "RNN": _recurrent("RNN"),
    "Round": _one(torch.round),
    "Selu": _one(F.selu),
    "Shape": _shape,
    "Sigmoid": _one(torch.sigmoid),
    "Sign": _one(torch.sign),
    "Sin": _one(torch.sin),
    "Size": lambda i, a: torch.tensor(i[0].numel(), device=i[0].device),
    "Slice": _slice,
    "Softmax": lambda i, a: torch.softmax(i[0], a.get("axis", -1)),
    "Softplus": _one(F.softplus),
    "Softsign": _one(F.softsign),
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Sqrt": _one(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _two(torch.sub),
    "Sum": _many(torch.add),
    "Swish": lambda i, a: i[0] * torch.sigmoid(a.get("alpha", 1.0) * i[0]),
    "Tanh": _one(torch.tanh),
    "ThresholdedRelu": _thresholded,
    "Tile": lambda i, a: i[0].repeat(_ints(i[1])),
    "Transpose": lambda i, a: i[0].permute(a.get("perm", list(reversed(range(i[0].dim()))))),
    "Trilu": lambda i, a: (torch.triu if a.get("upper", 1) else torch.tril)(
        i[0], 0 if _at(i, 1) is None else int(i[1])
    ),
    "Unsqueeze": _unsqueeze,
    "Where": lambda i, a: torch.where(i[0], i[1], i[2]),
    "Xor": _two(torch.logical_xor),
}
"""By ONNX's name."""
