"""The products of one forward pass, seen where torch dispatches them: whatever asks for one, and however it is written.

Fused kernels are switched off, so that attention and recurrent cells come apart into the matrix products they are made
of. Which results are equal for certain, because the same operator made them of the same tensors, is noted: an exporter
joins those, so they run once.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from robustdeploy.cost.operators import PRODUCTS, Sizes, has_no_products, name_of
from robustdeploy.errors import BudgetError

_NORMALISING = frozenset({"native_batch_norm", "native_layer_norm"})
_ACTIVATIONS = frozenset(
    {"relu", "hardswish", "hardsigmoid", "hardtanh", "silu", "gelu", "sigmoid", "leaky_relu", "elu"}
)
"""Operators that give as many numbers as they are given, by rules that torch takes longest to follow."""


@dataclass(frozen=True)
class Operand:
    """Where the weights of a product lie: a parameter or buffer, and which of its numbers take part."""

    name: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def of(self, tensor: Tensor) -> Tensor:
        """Return those numbers of ``tensor``, the parameter or buffer itself."""
        return tensor.as_strided(self.size, self.stride, self.offset)


@dataclass(frozen=True)
class Product:
    """One product of one forward pass."""

    layer: str
    """The module whose weights it multiplies by, or else the innermost one that it ran in."""
    operator: str
    sizes: Sizes
    operand: Operand | None
    """Its weights; None for a product of two computed tensors."""
    again: bool
    """Whether the same was computed before."""

    @property
    def macs(self) -> int:
        """Its multiplications."""
        return math.prod(self.sizes)


@contextmanager
def unfused() -> Iterator[None]:
    """Have torch compute attention and recurrent cells by their single products."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TF32 is only for some hardware
        mkldnn, cudnn = torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=False)
        einsum = torch.backends.opt_einsum.flags(enabled=False)  # from left to right, as ONNX runtimes do
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with mkldnn, cudnn, einsum, sdpa_kernel(SDPBackend.MATH):
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


def watched(net: nn.Module, images: Tensor) -> list[Product]:
    """Return the products of one forward pass of ``net``, in order.

    Raises BudgetError at an operator of which nobody knows what it multiplies.
    """
    watch = _Watch(net)
    handles = []
    for name, module in net.named_modules():
        handles.append(module.register_forward_pre_hook(watch.entering(name), with_kwargs=True))
        # always_call, or a layer that raises would stay the innermost one for whoever catches the error.
        handles.append(module.register_forward_hook(watch.leaving, with_kwargs=True, always_call=True))
    try:
        with unfused(), watch:
            net(images)
    finally:
        for handle in handles:
            handle.remove()
    return watch.found


class _Watch(TorchDispatchMode):
    """Notes each product, and numbers every tensor so that equal numbers are equal tensors."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Product] = []
        self._running = [""]
        # By storage and not by tensor: a transposed or sliced weight is still that parameter's.
        self._owners: dict[int, list[tuple[str, str]]] = {}
        for module_name, module in net.named_modules(remove_duplicate=False):
            for kind, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                name = f"{module_name}.{kind}" if module_name else kind
                self._owners.setdefault(_memory(tensor), []).append((module_name, name))
        self._numbers: dict[Any, int] = {}
        self._number_of: Any = WeakTensorKeyDictionary()
        self._writes: dict[int, int] = {}
        self._leaves: list[Tensor] = []
        self._seen: set[int] = set()

    def entering(self, name: str) -> Callable[..., None]:
        """Return a hook that notes that the module ``name`` starts."""

        def note(*_: Any) -> None:
            self._running.append(name)

        return note

    def leaving(self, *_: Any) -> None:
        """Note that the module that started last is done."""
        self._running.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # Before the operator runs: one that works in place changes what its arguments are.
        number = self._number((func, args, kwargs), unique=torch.Tag.nondeterministic_seeded in func.tags)
        output = _run(func, args, kwargs)
        if (kind := PRODUCTS.get(name := name_of(func))) is not None and func.namespace == "aten":
            self._note(name, kind.sizes(args, output), args[kind.factors], number)
        elif not has_no_products(func):
            raise BudgetError(
                "the operations of this net cannot be counted: nobody knows what torch's "
                f"'{func.namespace}.{name}' multiplies (in {as_named(self._running[-1])}); "
                "write it with convolutions or matrix products, or leave it out"
            )
        self._remember(func, args, kwargs, output, number)
        return output

    def _note(self, name: str, sizes: list[Sizes], factors: Sequence[Tensor], number: int) -> None:
        if any(factor.is_complex() or factor.layout != torch.strided for factor in factors):
            raise BudgetError(
                f"the operations of this net cannot be counted: '{name}' is a product of complex or sparse "
                f"tensors (in {as_named(self._running[-1])}); write it with dense real ones"
            )
        layer, operand = self._running[-1], None
        # The weight mostly is the last factor; in a product of two parameters either would do.
        if (weights := next((each for each in reversed(factors) if _memory(each) in self._owners), None)) is not None:
            owners = self._owners[_memory(weights)]
            # A shared weight belongs to the layer that is running; outside of all its owners to the first.
            layer, parameter = next((owner for owner in owners if owner[0] == layer), owners[0])
            operand = Operand(parameter, tuple(weights.shape), tuple(weights.stride()), int(weights.storage_offset()))
        again = number in self._seen
        self._seen.add(number)
        for place, each in enumerate(sizes):
            self.found.append(Product(layer, name, each, operand if place == 0 else None, again))

    def _number(self, value: Any, unique: bool) -> int:
        """Return the number of what an operator gives for these arguments, a random one each time another."""
        leaves, structure = tree_flatten(value)
        key = (str(structure), *(self._key(leaf) for leaf in leaves), *([len(self._numbers)] if unique else []))
        return self._numbers.setdefault(key, len(self._numbers))

    def _key(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            # With its type, since True, 1 and 1.0 are equal in Python and not to an operator.
            return (type(leaf), leaf) if isinstance(leaf, (int, float, bool, str)) else str(leaf)
        memory = _memory(leaf)
        number, writes = self._number_of.get(leaf, (None, 0))
        if number is not None and writes == self._writes.get(memory, 0):
            return ("made", number)
        self._leaves.append(leaf)  # held, so that no other tensor takes its place in memory
        # Two views of one memory show other numbers, so the address alone does not tell them apart.
        layout = (tuple(leaf.shape), tuple(leaf.stride()), leaf.storage_offset())
        return ("there", memory, self._writes.get(memory, 0), layout, leaf.dtype)

    def _remember(self, func: Any, args: Any, kwargs: Any, output: Any, number: int) -> None:
        """Note the numbers of the tensors given; who shares memory with one that was written to has another one now."""
        named = {argument.name: given for argument, given in zip(func._schema.arguments, args, strict=False)} | kwargs
        for argument in func._schema.arguments:
            given = named.get(argument.name)
            # The schema says what is written to: in-place operators, but also those with an ``out`` argument.
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(given, Tensor):
                memory = _memory(given)
                self._writes[memory] = self._writes.get(memory, 0) + 1
        for place, leaf in enumerate(tree_leaves(output)):
            if isinstance(leaf, Tensor):
                own = self._numbers.setdefault(("output", number, place), len(self._numbers))
                self._number_of[leaf] = (own, self._writes.get(_memory(leaf), 0))


def as_named(layer: str) -> str:
    """Return what a layer is called by the net's author, who does not know what normalises the pixels."""
    path = layer.removeprefix("net.")
    return path if path not in ("", "net") else "the net itself"


def _run(operator: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator; where only shapes are asked for, without torch's own rules for it if those take long."""
    name = operator.overloadpacket.__name__
    if args and isinstance(args[0], Tensor) and args[0].is_meta and operator._overloadname == "default":
        if name in _NORMALISING:
            nothing = torch.empty(0, device="meta")
            return torch.empty_like(args[0]), nothing, nothing
        if name in _ACTIVATIONS:
            return torch.empty_like(args[0])
        if name.endswith("_") and name[:-1] in _ACTIVATIONS:
            return args[0]
    return operator(*args, **kwargs)


def _memory(tensor: Tensor) -> int:
    """Return what tells one piece of memory from another; a tensor that has none is its own."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse, or one of many under vmap
        return id(tensor)
