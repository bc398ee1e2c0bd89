"""Layout: channels last around convolutions and whatever lies between them, as far as it is known to allow it.

A tensor that was computed with channels last is still there with channels first, as a turned copy; nothing that is
unknown here sees a difference, and copies that nobody reads are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .folding import constant_of, folded, sizes_of

_LAST, _FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
_AXIS = {0: 0, 1: 3, 2: 1, 3: 2}
"""Where an axis of N×C×H×W is in N×H×W×C."""
_SINGLE = (
    *("abs", "astype", "ceil", "clip", "erf", "exp", "floor", "log", "negative", "round", "rsqrt", "sigmoid", "sqrt"),
    *("nn.gelu", "nn.gelu_tanh", "nn.leakyrelu", "nn.relu", "nn.selu", "nn.silu", "nn.softplus", "square", "tanh"),
)
_PAIRS = ("add", "subtract", "multiply", "divide", "maximum", "minimum", "power")
_POOLS = ("nn.max_pool2d", "nn.avg_pool2d")
_OVER_AXES = ("mean", "sum", "max", "min", "variance")


def channels_last(tvm: Any, module: Any) -> Any:
    """Return ``module`` with channels last wherever that is known to give the same numbers."""
    functor = tvm.relax.expr_functor

    @functor.mutator
    class Turning(functor.PyExprMutator):  # type: ignore[misc, name-defined]
        def visit_call_(self, call: Any) -> Any:
            call = self.builder_.normalize(self.visit_expr_post_order(call))
            if not isinstance(call, tvm.relax.Call):
                return call
            if (array := folded(tvm, self.builder_, call)) is not None:
                return tvm.relax.const(np.ascontiguousarray(array))
            return _Turn(tvm, self.builder_).turned(call)

    turning = Turning(module)
    for variable, function in module.functions.items():
        if isinstance(function, tvm.relax.Function):
            turning.builder_.update_func(variable, turning.visit_expr(function))
    return tvm.relax.transform.DeadCodeElimination()(turning.builder_.finalize())


class _Turn:
    """The rules for single operators."""

    def __init__(self, tvm: Any, builder: Any) -> None:
        self._tvm, self._relax, self._builder = tvm, tvm.relax, builder

    def turned(self, call: Any) -> Any:
        """Return what is the same as ``call``, computed with channels last where a rule says how."""
        name = str(getattr(call.op, "name", "")).removeprefix("relax.")
        if name == "call_tir":
            name, call = self._named(call)
        rule = _RULES.get(name)
        result = rule(self, call) if rule else None
        return call if result is None else result

    def _named(self, call: Any) -> tuple[str, Any]:
        """Give back the operator's name to a clipping, which arrives as a loop of its own."""
        name = str(call.args[0].name_hint).rstrip("0123456789_")
        given = list(call.args[1].fields) if isinstance(call.args[1], self._tvm.relax.Tuple) else []
        if name not in ("maximum", "minimum") or len(given) != 2:
            return "call_tir", call
        if (bound := constant_of(self._tvm, self._builder, given[1])) is None or bound.size != 1:
            return "call_tir", call
        operator = getattr(self._relax.op, name)
        return name, self._builder.normalize(operator(given[0], self._relax.const(bound.reshape(()))))

    # How tensors are turned.

    def _twin(self, expression: Any) -> Any:
        """Return the tensor with channels last that ``expression`` is the turned copy of; None where it is none."""
        source = self._builder.lookup_binding(expression) if isinstance(expression, self._relax.Var) else expression
        if getattr(getattr(source, "op", None), "name", "") != "relax.permute_dims" or source.attrs.axes is None:
            return None
        return source.args[0] if tuple(int(axis) for axis in source.attrs.axes) == _FIRST else None

    def _last(self, expression: Any) -> Any:
        """Return ``expression`` with channels last."""
        if (twin := self._twin(expression)) is not None:
            return twin
        if (array := constant_of(self._tvm, self._builder, expression)) is not None:
            return self._constant(array.transpose(_LAST))
        return self._builder.emit(self._relax.op.permute_dims(expression, _LAST))

    def _first(self, result: Any) -> Any:
        return self._relax.op.permute_dims(self._builder.emit(result), _FIRST)

    def _constant(self, array: Any) -> Any:
        return self._relax.const(np.ascontiguousarray(array))

    def _again(self, call: Any, arguments: list[Any]) -> Any:
        return self._relax.Call(call.op, arguments, call.attrs, call.ty_args)

    # The rules.

    def convolution(self, call: Any) -> Any:
        """Compute a convolution with channels last, whatever it reads."""
        weights = constant_of(self._tvm, self._builder, call.args[1])
        attrs = call.attrs
        if weights is None or (attrs.data_layout, attrs.kernel_layout) != ("NCHW", "OIHW"):
            return None
        kernel = self._constant(weights.transpose(2, 3, 1, 0))
        numbers = {name: [int(size) for size in getattr(attrs, name)] for name in ("strides", "padding", "dilation")}
        conv = self._relax.op.nn.conv2d(
            self._last(call.args[0]), kernel, **numbers, groups=int(attrs.groups), data_layout="NHWC",
            kernel_layout="HWIO", out_dtype=attrs.out_dtype or None,
        )  # fmt: skip
        return self._first(conv)

    def single(self, call: Any) -> Any:
        """Do to each number what needs no other."""
        if (twin := self._twin(call.args[0])) is None:
            return None
        return self._first(self._again(call, [twin, *call.args[1:]]))

    def pair(self, call: Any) -> Any:
        """Do something to two tensors, number by number; one of them may be a constant of any shape."""
        if all(self._twin(argument) is None for argument in call.args):
            return None
        turned = [self._beside(argument) for argument in call.args]
        return None if any(argument is None for argument in turned) else self._first(self._again(call, turned))

    def _beside(self, argument: Any) -> Any:
        sizes = sizes_of(argument.ty)
        if sizes is not None and len(sizes) == 4:
            return self._last(argument)
        if sizes == ():
            return argument
        array = constant_of(self._tvm, self._builder, argument)
        if array is None or array.ndim > 4:
            return None
        return self._constant(array.reshape((1,) * (4 - array.ndim) + array.shape).transpose(_LAST))

    def pool(self, call: Any) -> Any:
        """Pool, which knows both layouts."""
        if (twin := self._twin(call.args[0])) is None or call.attrs.layout != "NCHW":
            return None
        options = {name: getattr(call.attrs, name) for name in _ATTRIBUTES if hasattr(call.attrs, name)}
        plain = {name: [int(size) for size in value] if name in _LISTS else value for name, value in options.items()}
        operator = getattr(self._relax.op.nn, str(call.op.name).rpartition(".")[2])
        return self._first(operator(twin, **plain, layout="NHWC"))

    def over_axes(self, call: Any) -> Any:
        """Reduce over axes: over height and width alone nothing need be turned back."""
        if (twin := self._twin(call.args[0])) is None or call.attrs.axis is None:
            return None
        axes = [int(axis) % 4 for axis in call.attrs.axis]
        operator = getattr(self._relax.op, str(call.op.name).rpartition(".")[2])
        result = operator(twin, sorted(_AXIS[axis] for axis in axes), keepdims=bool(call.attrs.keepdims))
        if call.attrs.keepdims:
            return self._first(result)
        return result if sorted(axes) == [2, 3] else None

    def concatenation(self, call: Any) -> Any:
        """Put tensors beside each other."""
        parts = call.args[0]
        parts = self._builder.lookup_binding(parts) if isinstance(parts, self._relax.Var) else parts
        fields = list(getattr(parts, "fields", ()))
        if all(self._twin(field) is None for field in fields) or call.attrs.axis is None:
            return None
        if any(len(sizes_of(field.ty) or ()) != 4 for field in fields):
            return None
        axis = _AXIS[int(call.attrs.axis) % 4]
        return self._first(self._relax.op.concat([self._last(field) for field in fields], axis))

    def slice(self, call: Any) -> Any:
        """Take every so many of an axis."""
        if (twin := self._twin(call.args[0])) is None:
            return None
        axes = [int(axis.value) % 4 for axis in call.args[1].fields]
        turned = self._relax.Tuple([self._tvm.relax.prim_value(_AXIS[axis]) for axis in axes])
        return self._first(self._again(call, [twin, turned, *call.args[2:]]))

    def slopes(self, call: Any) -> Any:
        """Multiply what is below zero by a slope per channel."""
        if (twin := self._twin(call.args[0])) is None:
            return None
        return self._first(self._relax.op.nn.prelu(twin, call.args[1], axis=_AXIS[int(call.attrs.axis) % 4]))

    def turn(self, call: Any) -> Any:
        """Turn what is already turned: back again it is what it was."""
        if (twin := self._twin(call.args[0])) is None or call.attrs.axes is None:
            return None
        axes = [_FIRST[int(axis)] for axis in call.attrs.axes]
        return twin if axes == [0, 1, 2, 3] else self._relax.op.permute_dims(twin, axes)


_ATTRIBUTES = ("pool_size", "strides", "padding", "dilation", "ceil_mode", "count_include_pad")
_LISTS = ("pool_size", "strides", "padding", "dilation")

_RULES: Mapping[str, Callable[[_Turn, Any], Any]] = {
    "nn.conv2d": _Turn.convolution,
    "concat": _Turn.concatenation,
    "strided_slice": _Turn.slice,
    "nn.prelu": _Turn.slopes,
    "permute_dims": _Turn.turn,
    **dict.fromkeys(_SINGLE, _Turn.single),
    **dict.fromkeys(_PAIRS, _Turn.pair),
    **dict.fromkeys(_POOLS, _Turn.pool),
    **dict.fromkeys(_OVER_AXES, _Turn.over_axes),
}
