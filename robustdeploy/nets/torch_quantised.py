"""Torch forms of ONNX operators on whole numbers that stand for real ones, in the forms QDQ, QLinear and Integer.

Whole numbers are kept as floats, so that gradients pass. Every function takes the node's inputs, None where an optional
one is left out, and its attributes. Operators of the domain ``com.microsoft`` are those that ONNX Runtime's quantiser
writes: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustdeploy.nets.torch_windows import Attributes, Inputs, at, average_pool, conv

_RANGES = {torch.uint8: (0, 255), torch.int8: (-128, 127), torch.int16: (-32768, 32767), torch.uint16: (0, 65535)}


def rounded_through(x: Tensor) -> Tensor:
    """Round to whole numbers, ties to even; the gradient passes as if nothing were rounded (Bengio et al., 2013)."""
    return x + (x.round() - x).detach()


def _along(x: Tensor, values: Tensor, axis: int) -> Tensor:
    """Lay one value per channel along ``axis`` of ``x``; as many values as ``x`` has lie there already."""
    if values.numel() == 1:
        return values.reshape(())
    if values.shape == x.shape:
        return values
    shape = [1] * x.dim()
    shape[axis] = -1
    return values.reshape(shape)


def quantise(x: Tensor, scale: Tensor, zero: Tensor | None, axis: int = 1) -> Tensor:
    """Return ``x`` in whole steps of ``scale`` from ``zero``, within what the type of ``zero`` holds."""
    kind = torch.uint8 if zero is None else zero.dtype
    if kind not in _RANGES:
        raise NotImplementedError(f"QuantizeLinear to {kind}")
    low, high = _RANGES[kind]
    steps = rounded_through(x / _along(x, scale, axis))
    if zero is not None:
        steps = steps + _along(x, zero, axis).to(x.dtype)
    # Kept as floats: what is beyond the range has no gradient, what is inside passes it through.
    return steps.clamp(low, high)


def dequantise(x: Tensor, scale: Tensor, zero: Tensor | None, axis: int = 1) -> Tensor:
    """Return the real numbers that whole steps stand for."""
    steps = x.to(scale.dtype)
    if zero is not None:
        steps = steps - _along(x, zero, axis).to(scale.dtype)
    return steps * _along(x, scale, axis)


def _quantize_linear(i: Inputs, a: Attributes) -> Tensor:
    if a.get("block_size", 0):
        raise NotImplementedError("QuantizeLinear in blocks")
    return quantise(i[0], i[1], at(i, 2), a.get("axis", 1))


def _dequantize_linear(i: Inputs, a: Attributes) -> Tensor:
    x, axis, block = i[0], a.get("axis", 1), a.get("block_size", 0)

    def spread(values: Tensor) -> Tensor:
        return values.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis]) if block else values

    zero = at(i, 2)
    return dequantise(x, spread(i[1]), None if zero is None else spread(zero), axis)


def _dynamic(i: Inputs, a: Attributes) -> tuple[Tensor, Tensor, Tensor]:
    """Measure the range on the whole input; that the scale follows it is left out of the gradient."""
    x = i[0]
    low, high = x.detach().min().clamp(max=0), x.detach().max().clamp(min=0)
    scale = (high - low) / 255
    zero = torch.where(scale > 0, (-low / scale).round().clamp(0, 255), torch.zeros_like(scale)).to(torch.uint8)
    return quantise(x, torch.where(scale > 0, scale, torch.ones_like(scale)), zero), scale, zero


def _shifted(x: Tensor, zero: Tensor | None, axis: int = 0) -> Tensor:
    whole = x.to(torch.get_default_dtype()) if not x.is_floating_point() else x
    return whole if zero is None else whole - _along(x, zero, axis).to(whole.dtype)


def _conv_integer(i: Inputs, a: Attributes) -> Tensor:
    return conv((_shifted(i[0], at(i, 2)), _shifted(i[1], at(i, 3))), a)


def _matmul_integer(i: Inputs, a: Attributes) -> Tensor:
    return torch.matmul(_shifted(i[0], at(i, 2), -2), _shifted(i[1], at(i, 3), -1))


def _qlinear_conv(i: Inputs, a: Attributes) -> Tensor:
    x, weight = dequantise(i[0], i[1], i[2]), dequantise(i[3], i[4], i[5], 0)
    # The bias is in steps of the product of both scales.
    bias = () if at(i, 8) is None else (i[8].to(x.dtype) * i[1] * i[4],)
    return quantise(conv((x, weight, *bias), a), i[6], i[7])


def _qlinear_matmul(i: Inputs, a: Attributes) -> Tensor:
    left, right = dequantise(i[0], i[1], i[2], -2), dequantise(i[3], i[4], i[5], -1)
    return quantise(torch.matmul(left, right), i[6], i[7])


def _qgemm(i: Inputs, a: Attributes) -> Tensor:
    left = dequantise(i[0], i[1], i[2])
    right = dequantise(i[3], i[4], i[5], 0 if a.get("transB", 0) else 1)
    left, right = left.t() if a.get("transA", 0) else left, right.t() if a.get("transB", 0) else right
    product = a.get("alpha", 1.0) * (left @ right)
    if at(i, 6) is not None:
        product = product + i[6].to(product.dtype) * i[1] * i[4] * a.get("alpha", 1.0)
    return product if at(i, 7) is None else quantise(product, i[7], at(i, 8))


def _qlinear_two(compute: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Inputs, Attributes], Tensor]:
    def operator(i: Inputs, a: Attributes) -> Tensor:
        left, right = dequantise(i[0], i[1], at(i, 2)), dequantise(i[3], i[4], at(i, 5))
        return quantise(compute(left, right), i[6], at(i, 7))

    return operator


def _qlinear_one(compute: Callable[[Tensor, Attributes], Tensor]) -> Callable[[Inputs, Attributes], Tensor]:
    def operator(i: Inputs, a: Attributes) -> Tensor:
        return quantise(compute(dequantise(i[0], i[1], at(i, 2)), a), i[3], at(i, 4))

    return operator


def _mean(x: Tensor, a: Attributes) -> Tensor:
    if a.get("channels_last", 0):
        raise NotImplementedError("QLinearGlobalAveragePool with the channels last")
    return x.mean(tuple(range(2, x.dim())), keepdim=True)


def _qlinear_concat(i: Inputs, a: Attributes) -> Tensor:
    parts = [dequantise(i[place], i[place + 1], i[place + 2]) for place in range(2, len(i), 3)]
    return quantise(torch.cat(parts, a["axis"]), i[0], i[1])


QUANTISED: Mapping[str, Callable[[Inputs, Attributes], Any]] = {
    "ConvInteger": _conv_integer,
    "DequantizeLinear": _dequantize_linear,
    "DynamicQuantizeLinear": _dynamic,
    "MatMulInteger": _matmul_integer,
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear_matmul,
    "QuantizeLinear": _quantize_linear,
    "com.microsoft.DequantizeLinear": _dequantize_linear,
    "com.microsoft.QGemm": _qgemm,
    "com.microsoft.QLinearAdd": _qlinear_two(torch.add),
    "com.microsoft.QLinearAveragePool": _qlinear_one(lambda x, a: average_pool((x,), a)),
    "com.microsoft.QLinearConcat": _qlinear_concat,
    "com.microsoft.QLinearGlobalAveragePool": _qlinear_one(_mean),
    "com.microsoft.QLinearLeakyRelu": _qlinear_one(lambda x, a: F.leaky_relu(x, a.get("alpha", 0.01))),
    "com.microsoft.QLinearMul": _qlinear_two(torch.mul),
    "com.microsoft.QLinearSigmoid": _qlinear_one(lambda x, a: torch.sigmoid(x)),
    "com.microsoft.QLinearSoftmax": lambda i, a: quantise(
        torch.softmax(dequantise(i[0], i[1], at(i, 2)), a.get("axis", -1)), i[3], at(i, 4)
    ),
    "com.microsoft.QuantizeLinear": _quantize_linear,
}
"""By ONNX's name, with the domain where that is another."""
