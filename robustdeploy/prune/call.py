"""Call: one operation of torch's, as the dispatcher runs it, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

Flags = tuple[bool | None, ...]
"""Per tensor that an operation reads, whether a channel is zero there; None where the channel is not in it."""

_POINTWISE = frozenset(
    {
        "hardswish",
        "_prelu_kernel",
        "prelu",
        "native_dropout",
        "masked_fill",
        "where",
        "threshold",
        "log_sigmoid_forward",
    }
)
"""Operators that work number by number though torch does not mark every form of them so."""

_KNOWN_AS = {"mkldnn_rnn_layer": "lstm"}
"""Operators that torch calls by the library it runs them with."""


@dataclass(frozen=True)
class _Slot:
    """Stands for a tensor among the arguments."""

    number: int
    dtype: torch.dtype


class Call:
    """An operator, what it was called with, and what it gave."""

    def __init__(self, func: Any, args: Any, kwargs: Any, given: Any) -> None:
        self.func, self.args, self.kwargs = func, args, kwargs
        # Without its overload and its underscore ``relu_`` is ``relu``: one rule serves both forms.
        name = _KNOWN_AS.get(func.overloadpacket.__name__, func.overloadpacket.__name__)
        self.in_place = bool(func._schema.is_mutable) and name.endswith("_")
        self.name: str = name[:-1] if self.in_place else name
        self.tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self.gives = [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
        # By the schema's names, since the dispatcher passes on whatever mixture of positions and keywords a caller
        # used.
        named = [argument.name for argument in func._schema.arguments]
        self.bound: dict[str, Any] = {**dict(zip(named, args, strict=False)), **kwargs}

    @property
    def pointwise(self) -> bool:
        """Whether it works number by number."""
        return self.name in _POINTWISE or torch.Tag.pointwise in self.func.tags

    def dim(self, of: int) -> int | None:
        """Return the one dimension that it works along, in a tensor of ``of`` dimensions."""
        # An argument left at its default is not among those passed on, though the operator has it all the same.
        if "dim" not in self.bound and not any(a.name == "dim" for a in self.func._schema.arguments):
            return None
        dim = self.bound.get("dim", 0)
        return dim % max(1, of) if isinstance(dim, int) else None

    def dims(self, of: int) -> list[int]:
        """Return the dimensions that it reduces; all of them where none is named."""
        dim = self.bound.get("dim")
        if dim is None or dim == []:
            return list(range(of))
        return [d % of for d in ([dim] if isinstance(dim, int) else dim)]

    def span(self, size: int) -> tuple[int, int, int]:
        """Return start, end and step of a slice of ``size`` places."""
        start, end = self.bound.get("start"), self.bound.get("end")
        return slice(start, end, self.bound.get("step") or 1).indices(size)

    def keeps_zero(self) -> Callable[[Flags], bool]:
        """Return what says, by trying, whether it makes zero where some of what it reads is zero."""
        # Only slots are kept, not the tensors: the answer is asked for after the pass, and the maps would stay in
        # memory till then.
        numbers = iter(range(len(self.tensors)))

        def slot(leaf: Any) -> Any:
            return _Slot(next(numbers), leaf.dtype) if isinstance(leaf, Tensor) else leaf

        func, (args, kwargs) = self.func, tree_map(slot, (self.args, self.kwargs))

        @cache
        def tried(flags: Flags) -> bool:
            def filled(leaf: Any) -> Any:
                return _some(leaf.dtype, flags[leaf.number] is True) if isinstance(leaf, _Slot) else leaf

            its, more = tree_map(filled, (args, kwargs))
            try:
                given = tree_leaves(func(*its, **more))[0]
            # Four numbers may not do for its shapes. Then zero is not promised, and the mask goes to where it is read.
            except RuntimeError:
                return False
            return bool((given == 0).all())

        return tried


def _some(dtype: torch.dtype, zero: bool) -> Tensor:
    """Return four numbers: zeros, or such as a feature map may hold."""
    if dtype == torch.bool:
        return torch.tensor([True, False, True, False])
    # Both signs, none of them whole: an activation that is 0 for one of them must not pass for one that keeps zero.
    return torch.zeros(4, dtype=dtype) if zero else torch.tensor([0.7, -1.3, 2.1, -0.4]).to(dtype)
