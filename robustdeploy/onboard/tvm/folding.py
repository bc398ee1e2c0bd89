"""Folding: layouts of weights computed by numpy, at once; TVM would compile a program for each of them."""

from __future__ import annotations

from typing import Any

import numpy as np

_FOLDED = ("relax.permute_dims", "relax.reshape")


def fold_layouts(tvm: Any, module: Any) -> Any:
    """Return ``module`` with constants that are only turned or reshaped in their new layout."""
    functor = tvm.relax.expr_functor

    @functor.mutator
    class Folding(functor.PyExprMutator):  # type: ignore[misc, name-defined]
        def visit_call_(self, call: Any) -> Any:
            call = self.visit_expr_post_order(call)
            name = getattr(call.op, "name", "")
            if name not in _FOLDED or (weights := constant_of(tvm, self.builder_, call.args[0])) is None:
                return call
            if name == "relax.permute_dims":
                axes = call.attrs.axes
                turned = np.transpose(weights, None if axes is None else [int(axis) for axis in axes])
            else:
                shape = sizes_of(call.ty)
                if shape is None:
                    return call
                turned = weights.reshape(shape)
            return tvm.relax.const(np.ascontiguousarray(turned))

    folding = Folding(module)
    for variable, function in module.functions.items():
        if isinstance(function, tvm.relax.Function):
            folding.builder_.update_func(variable, folding.visit_expr(function))
    return folding.builder_.finalize()


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
