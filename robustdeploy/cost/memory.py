"""Count the activation memory of a torch net: the most bytes of feature maps that exist at once, for one image."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from robustdeploy.errors import BudgetError

BYTES = 4
"""Every number of a feature map counts as a float32, whatever type the net computes it in."""
_AT_ONCE = 4 * 2**30
_POINTWISE_TOO = frozenset({"native_batch_norm", "hardswish", "hardswish_", "_prelu_kernel"})
"""Operators that work number by number though torch does not mark them so; normalisation is one in eval mode."""
_FREE = frozenset({"empty", "view"})
"""Operators inside a layer that compute nothing."""
_COPY = "clone"
"""Torch marks it, but a copy is asked for where the same memory will not do."""


@dataclass(frozen=True)
class Activations:
    """The feature maps of one forward pass: how much memory each takes, and which of them exist together."""

    sizes: tuple[int, ...]
    """Bytes of each place in memory that feature maps are written to."""
    moments: tuple[frozenset[int], ...]
    """Per layer that runs, in order, the places that are taken then."""

    @property
    def peak(self) -> int:
        """The most bytes taken at once."""
        return max(sum(self.sizes[place] for place in moment) for moment in self.moments)


def peak_bytes(net: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Return the peak activation memory of ``net`` in bytes for one image of C×H×W, as ``Trace`` defines it."""
    return Trace(net, image_shape).activations.peak


def training_bytes(net: nn.Module, image_shape: tuple[int, int, int], images: int) -> int | None:
    """Return what a training step on so many images of C×H×W takes at least, in bytes; None for a net without a trace.

    Every feature map stays for the backward pass, and again as much is made in it; real steps took 2.6 to 6 times the
    maps, by net.
    """
    try:
        # Below every factor that was seen: what refuses by it must not refuse what would have worked.
        return 2 * sum(Trace(net, image_shape).activations.sizes) * images
    except BudgetError:
        return None


def images_at_once(net: nn.Module, image_shape: tuple[int, int, int], most: int) -> int:
    """Return how many images of C×H×W, ``most`` or fewer, are scored or attacked at a time: what 4 GiB hold."""
    # A net without a trace still needs a batch size; 64 maps of the image's size stand for its own.
    each = training_bytes(net, image_shape, 1) or 64 * BYTES * math.prod(image_shape)
    return max(1, min(most, _AT_ONCE // each))


def without_values(net: nn.Module) -> nn.Module:
    """Return a copy of ``net`` that has shapes only; tensors of whole numbers, which may be indices, keep theirs."""
    held: dict[int, Any] = {}
    for tensor in (*net.parameters(), *net.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        if isinstance(tensor, nn.Parameter):
            held[id(tensor)] = nn.Parameter(empty, tensor.requires_grad)
        elif tensor.is_floating_point():
            held[id(tensor)] = empty
    for module in net.modules():  # weight_norm of old keeps the weight that it computed, which torch refuses to copy
        made = (value for value in vars(module).values() if isinstance(value, Tensor) and not value.is_leaf)
        held |= {id(tensor): torch.empty_like(tensor, device="meta") for tensor in made}
    return copy.deepcopy(net, held)


@dataclass(frozen=True)
class _Step:
    """What runs at one moment: the tensors it reads and gives, and whether it works number by number.

    The tensors are held, so that no two pieces of memory share an address by chance.
    """

    reads: tuple[Tensor, ...]
    gives: tuple[Tensor, ...]
    pointwise: bool = False
    run: Callable[..., Any] | None = None

    def shortcut(self, run: Callable[..., Any]) -> Callable[[Tensor], Tensor] | None:
        """Return what gives the shape of ``run`` at once, if ``run`` is this step and works on one tensor."""
        if not (self.pointwise and self.run == run and len(self.reads) == len(self.gives) == 1):
            return None
        in_place = _memory(self.reads[0]) == _memory(self.gives[0])
        return (lambda read: read) if in_place else torch.empty_like


class Trace:
    """The layers of ``net`` one after another on one image of C×H×W, and which feature maps exist together meanwhile.

    The layers are those of eval mode, in the order in which the forward pass runs them. A layer is a module without
    modules inside, a layer of torch's own, or a single operation between modules. While it runs, its inputs and its
    output exist, and every earlier map that a later layer still reads; the image counts as well. Parameters do not, nor
    what is computed from them alone, nor what a layer needs inside itself. A view (a flattened map, a slice) takes no
    memory of its own and keeps what it shows. A layer that works number by number (batch normalisation, ReLU, dropout,
    an addition) writes its output over an input of the same size that nobody reads afterwards.

    Only shapes are traced, nothing is computed. Raises BudgetError when the net cannot be traced so.
    """

    def __init__(self, net: nn.Module, image_shape: tuple[int, int, int]) -> None:
        self._shape = image_shape
        # Buffers of whole numbers kept their values for the copy. On the meta device indices need a shape alone.
        self._net = without_values(net).eval().to("meta")
        self._given: dict[str, list[Tensor]] = {}
        self._channels: Mapping[str, int] = {}
        self._watch = _Watch(())
        for name, module in self._net.named_modules():
            if name and _is_layer(module):
                module.forward = partial(self._layer, name, module, module.forward)
        try:
            self._steps, output = self._run({}, ())
            fixed = {_memory(tensor) for tensor in (*self._net.parameters(), *self._net.buffers())}
            for step in self._steps:  # a weight that is computed from parameters: a runtime folds it into a constant
                if step.reads and fixed.issuperset(map(_memory, step.reads)):
                    fixed.update(map(_memory, step.gives))
            self._makers, self.activations = _placed(self._steps, output, fixed)
        except Exception as problem:
            first = (str(problem).splitlines() or [""])[0]
            raise BudgetError(
                "the activation memory of this net cannot be counted, as its layers cannot be traced "
                f"({type(problem).__name__}: {first}); a forward pass can be that decides nothing by computed values"
            ) from problem
        self._dense = self._given

    def sizes(self, channels: Mapping[str, int]) -> tuple[int, ...]:
        """Return the bytes of the same places when each named layer gives so many channels (or features)."""
        steps, _ = self._run(channels, self._steps)
        return tuple(_bytes(steps[step].gives[output]) for step, output in self._makers)

    def _run(self, channels: Mapping[str, int], known: Sequence[_Step]) -> tuple[list[_Step], Any]:
        self._given, self._channels, self._watch = {}, channels, _Watch(known)
        with warnings.catch_warnings(), torch.no_grad(), torch.device("meta"):
            warnings.simplefilter("ignore")
            image = torch.empty(1, *self._shape)
            self._watch.steps.append(_Step((), (image,)))
            with self._watch:
                return self._watch.steps, self._net(image)

    def _layer(self, name: str, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run one module as one step."""
        calls = self._given.setdefault(name, [])
        if name in self._channels:
            # A layer that runs several times gives maps of several sizes, so each call is met with its own.
            shape = list(self._dense[name][len(calls)].shape)
            shape[-1 if isinstance(module, nn.Linear) else 1] = self._channels[name]
            # The layer itself keeps its dense weights, which maps of fewer channels would not fit.
            given = self._watch.step(lambda *_: torch.empty(shape), args, kwargs)
        elif isinstance(module, _BatchNorm):  # torch's own rule for its shape takes longer than all other layers
            given = self._watch.step(torch.empty_like, args, kwargs, pointwise=True)
        else:
            given = self._watch.step(forward, args, kwargs)
        calls.append(given)
        return given


class _Watch(TorchFunctionMode):
    """Notes what runs, each module or operation as one step; steps that are ``known`` need not be looked into again."""

    def __init__(self, known: Sequence[_Step]) -> None:
        super().__init__()
        self.steps: list[_Step] = []
        self._known = known
        self._inside = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.step(func, args, kwargs or {})

    def step(self, run: Callable[..., Any], args: Any, kwargs: Any, pointwise: bool = False) -> Any:
        """Run ``run`` and note it; what it calls in turn is part of it."""
        if self._inside:
            return run(*args, **kwargs)
        reads, operators = tuple(_tensors((args, kwargs))), _Operators()
        self._inside = True
        try:
            if shortcut := self._shortcut(run):
                given = shortcut(reads[0])
            else:
                # Dispatching every operator through Python is slow; a second trace knows from the first what works
                # number by number.
                with nullcontext() if self._known else operators:
                    given = run(*args, **kwargs)
        finally:
            self._inside = False
        # What is asked of a tensor's shape reads none of it; what is assigned into one gives that one.
        if gives := tuple(_tensors(given)) or (reads[:1] if run is Tensor.__setitem__ else ()):
            self.steps.append(_Step(reads, gives, pointwise or operators.pointwise, run))
        return given

    def _shortcut(self, run: Callable[..., Any]) -> Callable[[Tensor], Tensor] | None:
        number = len(self.steps)
        return self._known[number].shortcut(run) if number < len(self._known) else None


class _Operators(TorchDispatchMode):
    """Watches which of torch's operators run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen: list[bool] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in _FREE:
            marked = torch.Tag.pointwise in func.tags and name != _COPY
            self._seen.append(marked or name in _POINTWISE_TOO)
        return func(*args, **(kwargs or {}))

    @property
    def pointwise(self) -> bool:
        return bool(self._seen) and all(self._seen)


def _is_layer(module: nn.Module) -> bool:
    own = type(module).__module__.startswith("torch.nn.") and not isinstance(module, nn.Sequential)
    return own or next(module.children(), None) is None


def _tensors(value: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def _memory(tensor: Tensor) -> int:
    """Return what tells one piece of memory from another; views of one tensor share it."""
    # Meta tensors have no address (data_ptr is 0), but each storage is an object of its own.
    return int(tensor.untyped_storage()._cdata)


def _bytes(tensor: Tensor) -> int:
    # The storage's size and not the tensor's: a slice keeps the whole map alive.
    return tensor.untyped_storage().nbytes() // tensor.element_size() * BYTES


def _placed(steps: list[_Step], output: Any, fixed: Iterable[int]) -> tuple[list[tuple[int, int]], Activations]:
    """Give each piece of memory that is not ``fixed`` a place, from the step that writes it to the last that reads it.

    Returned first is which output of which step every place was made for.
    """
    last = {_memory(tensor): number for number, step in enumerate(steps) for tensor in (*step.gives, *step.reads)}
    # The caller reads the scores, so they outlive the last step.
    last |= {_memory(tensor): len(steps) for tensor in _tensors(output)}
    place: dict[int, int] = dict.fromkeys(fixed, -1)
    makers: list[tuple[int, int]] = []
    sizes: list[int] = []
    moments: list[frozenset[int]] = []
    for number, step in enumerate(steps):
        # What no step has made, such as a buffer that the pass replaces, takes no place among the maps.
        ending = [_memory(t) for t in step.reads if last[_memory(t)] == number and step.pointwise]
        dying = {place.get(memory, -1) for memory in ending} - {-1}
        for index, tensor in enumerate(step.gives):
            if (memory := _memory(tensor)) in place:
                continue
            # The lowest place of those that fit, so that the same net gives the same places each time.
            over = sorted(old for old in dying if sizes[old] == _bytes(tensor))
            place[memory] = over[0] if over else len(sizes)
            if not over:
                makers.append((number, index))
                sizes.append(_bytes(tensor))
        moments.append(frozenset(taken for memory, taken in place.items() if last.get(memory, -1) >= number) - {-1})
    return makers, Activations(tuple(sizes), tuple(moments))
