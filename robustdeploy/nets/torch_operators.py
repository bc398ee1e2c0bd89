"""Torch forms of ONNX operators, so that a graph can be differentiated. See https://onnx.ai/onnx/operators/ for each.

Every function takes the node's inputs, None where an optional one is left out, and its attributes. Operators are those
of opsets 11 to 23. Where a version means something else than the later ones, `twin` says so in the attributes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import Tensor

from robustdeploy.nets.torch_attention import attention
from robustdeploy.nets.torch_quantised import QUANTISED
from robustdeploy.nets.torch_resize import resize, upsample
from robustdeploy.nets.torch_windows import (
    Attributes,
    Inputs,
    at,
    average_pool,
    conv,
    conv_transpose,
    depth_to_space,
    ints,
    max_pool,
    pad,
    space_to_depth,
)

Operator = Callable[[Inputs, Attributes], Any]


def half_through(x: Tensor) -> Tensor:
    """Round to what a 16-bit float holds; the gradient passes as if nothing were rounded."""
    return x + (x.half().to(x.dtype) - x).detach()


def torch_type(elem_type: int) -> torch.dtype:
    """Return the torch type of an ONNX one; 16-bit floats are kept in 32 bits and rounded, as a CPU computes them."""
    if elem_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        return torch.float32
    return torch.from_numpy(np.zeros(1, helper.tensor_dtype_to_np_dtype(elem_type))).dtype


def _gemm(i: Inputs, a: Attributes) -> Tensor:
    left = i[0].t() if a.get("transA", 0) else i[0]
    right = i[1].t() if a.get("transB", 0) else i[1]
    product: Tensor = a.get("alpha", 1.0) * (left @ right)
    return product if at(i, 2) is None else product + a.get("beta", 1.0) * i[2]


def _batch_norm(i: Inputs, a: Attributes) -> Tensor:
    return F.batch_norm(i[0], i[3], i[4], i[1], i[2], False, 0.0, a.get("epsilon", 1e-5))


def _layer_norm(i: Inputs, a: Attributes) -> Tensor:
    return F.layer_norm(i[0], i[0].shape[a.get("axis", -1) :], i[1], at(i, 2), a.get("epsilon", 1e-5))


def _instance_norm(i: Inputs, a: Attributes) -> Tensor:
    return F.instance_norm(i[0], None, None, i[1], i[2], True, 0.0, a.get("epsilon", 1e-5))


def _group_norm(i: Inputs, a: Attributes) -> Tensor:
    groups, channels = a["num_groups"], i[0].shape[1]
    # Before opset 21 there is one scale and one bias for each group.
    scale, bias = (each if len(each) == channels else each.repeat_interleave(channels // groups) for each in i[1:3])
    return F.group_norm(i[0], groups, scale, bias, a.get("epsilon", 1e-5))


def _axes(i: Inputs, a: Attributes, x: Tensor) -> list[int] | None:
    """Return the axes of a reduction, from its second input or its attribute; None for a node that does nothing."""
    given = ints(i[1]) if at(i, 1) is not None else list(a.get("axes", []))
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
    x, starts, ends = i[0], ints(i[1]), ints(i[2])
    axes = ints(i[3]) if at(i, 3) is not None else list(range(len(starts)))
    steps = ints(i[4]) if at(i, 4) is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        indices = range(x.shape[axis])[slice(start, end if step > 0 or end >= -x.shape[axis] else None, step)]
        if step == 1:
            x = x.narrow(axis, indices.start, len(indices))
        else:
            x = x.index_select(axis, torch.tensor(list(indices), dtype=torch.int64, device=x.device))
    return x


def _split(i: Inputs, a: Attributes) -> tuple[Tensor, ...]:
    x, axis = i[0], a.get("axis", 0)
    sizes = ints(i[1]) if at(i, 1) is not None else list(a.get("split", []))
    if sizes:
        return torch.split(x, sizes, axis)
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


def _scatter_nd(i: Inputs, a: Attributes) -> Tensor:
    if a.get("reduction", b"none") != b"none":
        raise NotImplementedError("ScatterND with a reduction")
    return i[0].index_put(tuple(i[1].unbind(-1)), i[2])


def _reshape(i: Inputs, a: Attributes) -> Tensor:
    sizes = ints(i[1])
    if not a.get("allowzero", 0):
        sizes = [i[0].shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    reshaped: Tensor = i[0].reshape(sizes)
    return reshaped


def _flatten(i: Inputs, a: Attributes) -> Tensor:
    axis = a.get("axis", 1)
    flat: Tensor = i[0].reshape(math.prod(i[0].shape[: axis if axis >= 0 else axis + i[0].dim()]), -1)
    return flat


def _squeeze(i: Inputs, a: Attributes) -> Tensor:
    axes = ints(i[1]) if at(i, 1) is not None else list(a.get("axes", []))
    squeezed: Tensor = i[0].squeeze(axes) if axes else i[0].squeeze()
    return squeezed


def _unsqueeze(i: Inputs, a: Attributes) -> Tensor:
    axes = ints(i[1]) if at(i, 1) is not None else list(a["axes"])
    x, rank = i[0], i[0].dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _expand(i: Inputs, a: Attributes) -> Tensor:
    expanded: Tensor = i[0].expand(np.broadcast_shapes(tuple(i[0].shape), tuple(ints(i[1]))))
    return expanded


def _clip(i: Inputs, a: Attributes) -> Tensor:
    low, high = at(i, 1), at(i, 2)
    clipped = i[0] if low is None else torch.maximum(i[0], low)
    return clipped if high is None else torch.minimum(clipped, high)


def _cast(i: Inputs, a: Attributes) -> Tensor:
    to = torch_type(a["to"])
    # A copy of the net in float64 stays in float64.
    if to in (torch.float32, torch.float64) and i[0].is_floating_point():
        return i[0]
    # Pixels on their way into a net of whole numbers: as in quantised graphs, these are kept as floats.
    if not to.is_floating_point and to is not torch.bool and i[0].requires_grad:
        return i[0] + (i[0].trunc() - i[0]).detach()
    cast: Tensor = i[0].to(to)
    return cast


def _constant_of_shape(i: Inputs, a: Attributes) -> Tensor:
    value = a.get("value")
    fill = torch.zeros(1) if value is None else torch.from_numpy(np.array(value))
    return torch.full(ints(i[0]), fill.item(), dtype=fill.dtype, device=i[0].device)


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


def _rms_norm(i: Inputs, a: Attributes) -> Tensor:
    return F.rms_norm(i[0], i[0].shape[a.get("axis", -1) :], i[1], a.get("epsilon", 1e-5))


def _lp_normalisation(i: Inputs, a: Attributes) -> Tensor:
    return F.normalize(i[0], float(a.get("p", 2)), a.get("axis", -1), eps=0.0)


def _top(i: Inputs, a: Attributes) -> tuple[Tensor, ...]:
    return tuple(torch.topk(i[0], int(i[1]), a.get("axis", -1), bool(a.get("largest", 1)), True))


def _grid_sample(i: Inputs, a: Attributes) -> Tensor:
    mode = {b"linear": "bilinear", b"cubic": "bicubic"}.get(a.get("mode", b"linear"), a.get("mode", b"").decode())
    edges, corners = a.get("padding_mode", b"zeros").decode(), bool(a.get("align_corners", 0))
    return F.grid_sample(i[0], i[1], mode, edges, corners)


def _dropout(i: Inputs, a: Attributes) -> Any:
    if at(i, 2) is not None and bool(i[2]):
        raise NotImplementedError("Dropout while training")
    return i[0]


def _recurrent(kind: str) -> Operator:
    """LSTM, GRU or RNN by torch's own layers, with the gates in torch's order."""
    order = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}[kind]

    def operator(i: Inputs, a: Attributes) -> tuple[Tensor, ...]:
        x, weight, again, bias, hidden = i[0], i[1], i[2], at(i, 3), a["hidden_size"]
        usual = not a.get("layout", 0) and "activations" not in a and "clip" not in a and not a.get("input_forget", 0)
        if not usual or any(at(i, place) is not None for place in (4, 7)) or a.get("direction") == b"reverse":
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
        state = at(i, 5) if at(i, 5) is not None else first
        arguments = (flat, True, 1, 0.0, False, ways == 2, False)
        if kind == "LSTM":
            cell = at(i, 6) if at(i, 6) is not None else first
            out, last, last_cell = torch.lstm(x, (state, cell), *arguments)
            told: tuple[Tensor, ...] = (out, last, last_cell)
        else:
            out, last = (torch.gru if kind == "GRU" else torch.rnn_tanh)(x, state, *arguments)
            told = (out, last)
        # ONNX keeps the directions apart: T×D×N×H.
        return (told[0].reshape(*x.shape[:2], ways, hidden).transpose(1, 2), *told[1:])

    return operator


def _over_classes(compute: Callable[[Tensor, int], Tensor]) -> Operator:
    def operator(i: Inputs, a: Attributes) -> Tensor:
        if a.get("flatten", False):
            return compute(_flatten(i, a), -1).reshape(i[0].shape)
        return compute(i[0], a.get("axis", -1))

    return operator


def _one(compute: Callable[[Tensor], Tensor]) -> Operator:
    return lambda i, a: compute(i[0])


def _two(compute: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda i, a: compute(i[0], i[1])


def _many(compute: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda i, a: reduce(compute, i)


FLATTENING = ("Softmax", "LogSoftmax")
"""Before opset 13 these work on two dimensions, of which ``axis``, 1 by default, begins the second."""

OPERATORS: Mapping[str, Operator] = {
    **QUANTISED,
    "Abs": _one(torch.abs),
    "Add": _two(torch.add),
    "And": _two(torch.logical_and),
    "ArgMax": _argmax,
    "Attention": attention,
    "AveragePool": average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Ceil": _one(torch.ceil),
    "Celu": lambda i, a: F.celu(i[0], a.get("alpha", 1.0)),
    "Clip": _clip,
    "Concat": lambda i, a: torch.cat(list(i), a["axis"]),
    "ConstantOfShape": _constant_of_shape,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Cos": _one(torch.cos),
    "CumSum": lambda i, a: torch.cumsum(i[0], int(i[1])),
    "DepthToSpace": depth_to_space,
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
    "GridSample": _grid_sample,
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
    "LogSoftmax": _over_classes(F.log_softmax),
    "LpNormalization": _lp_normalisation,
    "LRN": _lrn,
    "LSTM": _recurrent("LSTM"),
    "MatMul": _two(torch.matmul),
    "Max": _many(torch.maximum),
    "MaxPool": max_pool,
    "Mean": lambda i, a: reduce(torch.add, i) / len(i),
    "Min": _many(torch.minimum),
    "Mish": _one(F.mish),
    "Mod": lambda i, a: torch.fmod(i[0], i[1]) if a.get("fmod", 0) else torch.remainder(i[0], i[1]),
    "Mul": _two(torch.mul),
    "Neg": _one(torch.neg),
    "Not": _one(torch.logical_not),
    "Or": _two(torch.logical_or),
    "Pad": pad,
    "Pow": _two(torch.pow),
    "PRelu": _prelu,
    "Range": _range,
    "Reciprocal": _one(torch.reciprocal),
    "ReduceL1": _reduction(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
    "ReduceL2": _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt()),
    "ReduceLogSum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep).log()),
    "ReduceLogSumExp": _reduction(lambda x, axes, keep: x.logsumexp(axes, keepdim=keep)),
    "ReduceMax": _reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMean": _reduction(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceMin": _reduction(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
    "Relu": _one(torch.relu),
    "Reshape": _reshape,
    "Resize": resize,
    "RMSNormalization": _rms_norm,
    "RNN": _recurrent("RNN"),
    "Round": _one(torch.round),
    "ScatterND": _scatter_nd,
    "Selu": _one(F.selu),
    "Shape": _shape,
    "Sigmoid": _one(torch.sigmoid),
    "Sign": _one(torch.sign),
    "Sin": _one(torch.sin),
    "Size": lambda i, a: torch.tensor(i[0].numel(), device=i[0].device),
    "Slice": _slice,
    "Softmax": _over_classes(torch.softmax),
    "Softplus": _one(F.softplus),
    "Softsign": _one(F.softsign),
    "SpaceToDepth": space_to_depth,
    "Split": _split,
    "Sqrt": _one(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _two(torch.sub),
    "Sum": _many(torch.add),
    "Swish": lambda i, a: i[0] * torch.sigmoid(a.get("alpha", 1.0) * i[0]),
    "Tanh": _one(torch.tanh),
    "ThresholdedRelu": _thresholded,
    "Tile": lambda i, a: i[0].repeat(ints(i[1])),
    "TopK": _top,
    "Transpose": lambda i, a: i[0].permute(a.get("perm", list(reversed(range(i[0].dim()))))),
    "Trilu": lambda i, a: (torch.triu if a.get("upper", 1) else torch.tril)(i[0], 0 if at(i, 1) is None else int(i[1])),
    "Unsqueeze": _unsqueeze,
    "Upsample": upsample,
    "Where": lambda i, a: torch.where(i[0], i[1], i[2]),
    "Xor": _two(torch.logical_xor),
}
"""By ONNX's name."""
