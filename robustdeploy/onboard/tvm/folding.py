"""Folding: what follows from constants alone, computed by numpy at once; TVM would compile a program for each of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

_MOST_VALUES = 1 << 16
"""Operators other than changes of layout are only computed for fewer values than this."""


def folded(tvm: Any, builder: Any, call: Any) -> Any:
    """Return the constant that ``call`` is, as an array; None where it is none or where nobody here can compute it."""
    compute = _COMPUTED.get(getattr(call.op, "name", ""))
    if compute is None:
        return None
    given = [constant_of(tvm, builder, argument) for argument in call.args[: compute[0]]]
    if any(array is None for array in given):
        return None
    if compute[0] > 1 and max(array.size for array in given) > _MOST_VALUES:
        return None
    return compute[1](call, *given)


def constant_of(tvm: Any, builder: Any, expression: Any) -> Any:
    """Return the array that ``expression`` is, or that it names; None where it is none."""
    if isinstance(expression, tvm.relax.Var):
        expression = builder.lookup_binding(expression)
    return expression.value.numpy() if isinstance(expression, tvm.ir.GenericConst) else None


def sizes_of(of: Any) -> tuple[int, ...] | None:
    """Return the sizes of a tensor's type where all of them are known."""
    shape = getattr(of, "shape", None)
    if shape is None or not all(hasattr(size, "value") for size in shape):
        return None
    return tuple(int(size.value) for size in shape)


def _turned(call: Any, array: Any) -> Any:
    axes = call.attrs.axes
    return np.transpose(array, None if axes is None else [int(axis) for axis in axes])


def _reshaped(call: Any, array: Any) -> Any:
    sizes = sizes_of(call.ty)
    return None if sizes is None else array.reshape(sizes)


_COMPUTED: Mapping[str, tuple[int, Callable[..., Any]]] = {
    "relax.permute_dims": (1, _turned),
    "relax.reshape": (1, _reshaped),
    "relax.expand_dims": (1, _reshaped),
    "relax.squeeze": (1, _reshaped),
    "relax.isnan": (1, lambda call, array: np.isnan(array)),
    "relax.where": (3, lambda call, *arrays: np.where(*arrays)),
}
"""For each operator: how many of its arguments are tensors, and what it does."""
