"""Bounds: how large a net would be, counted while it is built without values, so that nothing is taken for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from robustdeploy.core.reading import size_text
from robustdeploy.core.room import available_bytes
from robustdeploy.errors import RecipeError

MOST_MODULES = 50_000
"""The deepest classifiers of torchvision have some 1,500."""
COPIES = 3
"""Of its weights, at least, that are held at once: the net, what a file gives, the net that is attacked."""


def check_bounds(name: str, make: Callable[[], Any]) -> None:
    """Refuse, with a RecipeError, a net whose weights memory cannot hold; ``make`` builds it.

    It is built on torch's meta device, where tensors have no values. What else goes wrong there is told by the real
    building, which comes next.
    """
    try:
        # Forked, since building on the meta device draws too, and the weights of the real building must stay those of
        # the seed.
        with torch.random.fork_rng(devices=[]), torch.device("meta"), _Unfilled(), bounded(name):
            make()
    except TooLarge:
        raise
    except Exception:
        return


_FILLS = frozenset({"normal_", "uniform_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_", "exponential_"})


class _Unfilled(TorchFunctionMode):
    """Leaves out the drawing of weights, for which torch would load its symbolic shapes: seconds for nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.__name__ in _FILLS or getattr(func, "__module__", "") == "torch.nn.init":
            # What torch's initialisers give back is the tensor itself.
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


class TooLarge(RecipeError):
    """A net is larger than memory, or than any net."""


@contextmanager
def bounded(name: str) -> Iterator[None]:
    """Raise where the modules that are made meanwhile are too many, or their tensors more than memory holds."""
    # Asked once: it reads files of the system, and a net may register thousands of tensors.
    available = available_bytes()
    counted = {"modules": 0, "bytes": 0}

    def add_module(_module: nn.Module, _name: str, added: nn.Module | None) -> None:
        counted["modules"] += 1
        if counted["modules"] > MOST_MODULES:
            raise TooLarge(f"net '{name}' has more than {MOST_MODULES:,} layers; give it smaller options")

    def add_tensor(_module: nn.Module, _name: str, added: Tensor | None) -> None:
        # A lazy parameter has no size before the first pass, which refuses it or gives it one.
        if added is None or is_lazy(added):
            return
        counted["bytes"] += added.numel() * added.element_size()
        if available is not None and COPIES * counted["bytes"] > available:
            raise TooLarge(
                f"net '{name}' has weights of {size_text(counted['bytes'])} or more, {COPIES} times that are needed, "
                f"and {size_text(available)} of memory are to be had here; give it smaller options"
            )

    handles = (
        # Hooks of all modules, not of this net, which does not exist yet: it must be stopped while it is being built.
        hooks.register_module_module_registration_hook(add_module),
        hooks.register_module_parameter_registration_hook(add_tensor),
        hooks.register_module_buffer_registration_hook(add_tensor),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
