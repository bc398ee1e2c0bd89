"""Steadiness: do an image's scores come from that image alone, each time the same? If not, which layer is at fault.

What is attacked and what a camera feeds are single images, so a net whose scores hang on their neighbours, on chance
or on earlier calls is another net in use than it was in a test.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from robustdeploy.errors import UsageError

LOOKED_AT = 4
"""Images that are enough for most faults: each is scored among the others and alone."""
CROWD = 256
"""Images that hosts and boards score at a time; a net may do something else with many than with few."""
REPEATS = 8
"""Passes over one image; chance that rarely shows needs several."""
TOLERANCE = 1e-5
"""Largest difference of scores, over their size, that rounding explains; float64 leaves far less."""
_ADVICE = {
    "chance": "In eval mode a net must answer the same each time: make that step depend on `self.training`.",
    "neighbours": "A camera delivers one image at a time: take nothing over the batch in eval mode.",
}
_NO_LAYER = "nothing that torch shows"


@dataclass(frozen=True)
class _Step:
    """One call of a torch function inside a pass."""

    layer: str
    function: str
    outputs: tuple[Tensor, ...]


def check_steady(net: nn.Module, images: Tensor, what: str) -> None:
    """Raise UsageError where the scores of ``images`` (N×C×H×W, pixels in [0, 1]) are not their own; see above."""
    if (found := unsteadiness(net, images)) is not None:
        raise UsageError(f"{what}: {found}")


@torch.no_grad()
def unsteadiness(net: nn.Module, images: Tensor) -> str | None:
    """Say why an image's scores are not its own in eval mode, naming the layer at fault; None where they are.

    ``net`` is left as it is. Looked at is a copy in float64, or in float32 where the net computes in that alone, and
    parameters that are all 0, as a fresh last layer's may be, are drawn at random there, so that nothing hides.
    The first few are looked at closely, and some of them then among all of ``images``.
    """
    with _probe(net, images[:LOOKED_AT].float().cpu()) as (probe, batch):
        count = len(batch)
        try:
            # In this order, since each test takes the one before for passed: NaN differs from itself, and chance from
            # anything.
            if few := _not_finite(probe, batch) or _chance(probe, batch) or _neighbours(probe, batch):
                return few
            count = len(images)
            return _crowd(probe, images.to(batch))
        except Exception as error:  # foreign code may raise anything
            words = " ".join(str(error).split())[:300]
            return f"it cannot score {count} images together and one by one: {words}"


def _not_finite(probe: nn.Module, batch: Tensor) -> str | None:
    """Look for scores that are no numbers, which would differ from themselves in every comparison below."""
    if torch.isfinite(_scores(probe, batch)).all():
        return None
    wild = [step for step in _steps(probe, batch) if not all(_is_finite(output) for output in step.outputs)]
    told = layer_text(probe, wild[0].layer, wild[0].function) if wild else _NO_LAYER
    return f"the scores of images are not finite (NaN or infinite); the first such values come from {told}"


def _is_finite(output: Tensor) -> bool:
    return not output.is_floating_point() or bool(torch.isfinite(output).all())


def _chance(probe: nn.Module, batch: Tensor) -> str | None:
    """Look for scores that change from pass to pass: by chance, or by what the net keeps of earlier ones."""
    before = {name: buffer.clone() for name, buffer in probe.named_buffers()}
    first = _scores(probe, batch)
    # Other images in between: a net that keeps what it saw would give the same twice for the same.
    _scores(probe, batch.flip(0))
    passes = [_scores(probe, batch[:1]) for _ in range(REPEATS)]
    if not (_apart(first, _scores(probe, batch)) or any(_apart(passes[0], one) for one in passes)):
        return None
    cause = _restless(probe, before)
    recorded = _steps(probe, batch[:1])
    for _ in range(0 if cause else REPEATS):
        cause = cause or _cause(probe, recorded, _steps(probe, batch[:1]), None)
    told = cause or _NO_LAYER
    return f"two passes over the same image give different scores; the cause is {told}. {_ADVICE['chance']}"


def _neighbours(probe: nn.Module, batch: Tensor) -> str | None:
    """Look for scores that are others among other images than alone."""
    before = {name: buffer.clone() for name, buffer in probe.named_buffers()}
    among = _scores(probe, batch)
    alone = torch.cat([_scores(probe, image[None]) for image in batch])
    if not _apart(among, alone):
        return None
    # The image that differs most shows the cause most surely, above the noise of rounding.
    most = int((among - alone).abs().amax(1).argmax())
    place = most, len(batch)
    cause = _restless(probe, before) or _cause(probe, _steps(probe, batch[most][None]), _steps(probe, batch), place)
    told = cause or _NO_LAYER
    return f"the scores of an image depend on the images beside it; the cause is {told}. {_ADVICE['neighbours']}"


def _crowd(probe: nn.Module, images: Tensor) -> str | None:
    """Look for scores that are others among many images than among few: in float32, which is fast, and if so again."""
    if len(images) <= LOOKED_AT:
        return None
    # Both ends: code that cuts many images into parts treats the last part otherwise, if any.
    ends, many = [0, 1, -2, -1], images.float()
    probe.float()
    if not _apart(_scores(probe, many[ends]), _scores(probe, many)[ends]):
        return None
    # float32 alone proves nothing: kernels for many images add up in another order.
    return _neighbours(probe.to(images.dtype), images)


def layer_text(net: nn.Module, name: str, function: str = "") -> str:
    """Name a layer for people, with what makes it one that looks beyond its image: its path, its type, its options."""
    layer = net.get_submodule(name)
    kind = type(layer).__name__
    article = "an" if kind[:1] in "AEIOU" or kind[:2] in ("LS", "RN") else "a"
    path = name.removeprefix("net.") if name not in ("", "net") else "the net itself"
    told = f"{path}, {article} {kind}"
    if isinstance(layer, _BatchNorm) and layer.running_mean is None:
        return f"{told} without running statistics"
    if getattr(layer, "batch_first", True) is False:
        return f"{told} with batch_first=False"
    # A layer of torch's own explains itself; of others the operation inside is told.
    is_torchs = type(layer).__module__.startswith("torch.nn.modules") and not any(layer.children())
    return told if is_torchs or not function else f"{function} in {told}"


@contextmanager
def entered(net: nn.Module) -> Iterator[list[str]]:
    """Keep the names of the modules that a pass through ``net`` is inside of at any moment, the innermost last."""
    inside: list[str] = [""]
    handles = []
    for name, module in net.named_modules():
        if not name:
            continue

        def enter(_module: nn.Module, _inputs: Any, name: str = name) -> None:
            inside.append(name)

        def leave(_module: nn.Module, _inputs: Any, _output: Any) -> None:
            inside.pop()

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield inside
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _probe(net: nn.Module, images: Tensor) -> Iterator[tuple[nn.Module, Tensor]]:
    """Give a copy of ``net`` on the CPU in eval mode, and ``images``, both in float64 where the net runs in that."""
    with torch.random.fork_rng(devices=[]):
        try:
            # float64, in which rounding stays far below the tolerance, so that what differs really differs.
            probe = _filled(_copied(net)).double()
            probe(images.double())
        except Exception:  # foreign code may raise anything; in float32 it says why
            pass
        else:
            yield probe, images.double()
            return
        try:
            probe = _filled(_copied(net))
        except Exception:  # some modules hold what cannot be copied; then the net itself is looked at
            with _borrowed(net):
                yield net, images.to(next((p.device for p in net.parameters()), images.device))
        else:
            yield probe, images


def _copied(net: nn.Module) -> nn.Module:
    # weight_norm of old keeps a tensor that is no leaf, which deepcopy refuses; it is made anew in each pass.
    made = [t for module in net.modules() for t in vars(module).values() if isinstance(t, Tensor) and not t.is_leaf]
    return copy.deepcopy(net, {id(tensor): tensor.detach().clone() for tensor in made}).cpu().eval()


def _filled(net: nn.Module) -> nn.Module:
    noise = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        if parameter.is_floating_point() and not parameter.any():
            # A last layer of zeros gives the same scores to every image, whatever happens before it.
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=noise))
    return net


@contextmanager
def _borrowed(net: nn.Module) -> Iterator[None]:
    """Put ``net`` into eval mode, and back as it was afterwards, its buffers too."""
    modes = [(module, module.training) for module in net.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for buffer, held in buffers:
            buffer.copy_(held)


def _scores(probe: nn.Module, images: Tensor) -> Tensor:
    scores = probe(images)
    if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != len(images):
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"{len(images)} images gave {found}, not one row of scores each")
    # Cloned, as a net may give out a buffer that its next pass writes into.
    return scores.clone()


def _apart(ours: Tensor, theirs: Tensor) -> bool:
    limit = TOLERANCE * (1 if ours.dtype == torch.float64 else 10)
    gap = (ours - theirs).abs().max()
    # Written so that NaN counts as apart.
    return not bool(gap <= limit * ours.abs().max() + 1e-30)


def _restless(probe: nn.Module, before: Mapping[str, Tensor]) -> str | None:
    """Name what a pass in eval mode changed in the net: a mode, or else a buffer."""
    awake = [name for name, module in probe.named_modules() if module.training]
    if awake:
        return f"{layer_text(probe, awake[0])}, which switches itself to training mode in its forward pass"
    moved = [name for name, buffer in probe.named_buffers() if name in before and _moved(buffer, before[name])]
    if moved:
        layer, _, buffer = moved[0].rpartition(".")
        return f"{layer_text(probe, layer)}, which changes its buffer '{buffer}' in each pass"
    return None


def _moved(now: Tensor, before: Tensor) -> bool:
    return now.shape != before.shape or not torch.equal(now, before)


class _Recorder(TorchFunctionMode):
    """Keeps what every torch function gives that a module calls."""

    def __init__(self, inside: list[str]) -> None:
        super().__init__()
        self._inside = inside
        self.steps: list[_Step] = []

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        given = result if isinstance(result, (tuple, list)) else (result,)
        # Cloned, or an operation that works in place further on would change what was recorded.
        outputs = tuple(one.detach().clone() for one in given if isinstance(one, Tensor))
        if outputs:
            name = getattr(function, "__name__", "an operation").strip("_")
            self.steps.append(_Step(self._inside[-1], name, outputs))
        return result


def _steps(probe: nn.Module, images: Tensor) -> list[_Step]:
    with entered(probe) as inside:
        recorder = _Recorder(inside)
        with recorder:
            probe(images)
    return recorder.steps


def _cause(probe: nn.Module, ours: list[_Step], theirs: list[_Step], place: tuple[int, int] | None) -> str | None:
    """Name the first step that differs between two passes; every step before it agrees.

    ``place`` is (index, count) where ours is a pass of that one image alone and theirs of all of them.
    """
    # Not strict: a pass over many images may have more steps than one over a single image.
    for mine, other in zip(ours, theirs, strict=False):
        pairs = list(zip(mine.outputs, other.outputs, strict=False))
        if mine.function != other.function:  # the longer pass has a step that the shorter has not
            step = other if len(theirs) > len(ours) else mine
            return layer_text(probe, step.layer, step.function)
        if any(_differ(a, b, place) for a, b in pairs):
            return layer_text(probe, mine.layer, mine.function)
    return None


def _differ(alone: Tensor, among: Tensor, place: tuple[int, int] | None) -> bool:
    """Whether an image's part of a step differs; where its part of ``among`` cannot be told, it does not."""
    if alone.shape != among.shape:
        # Not every layer keeps images in the first dimension; where exactly one grows with their number, that is it.
        wider = [d for d in range(alone.ndim) if alone.ndim == among.ndim and alone.shape[d] != among.shape[d]]
        if place is None or len(wider) != 1 or among.shape[wider[0]] != place[1] * alone.shape[wider[0]]:
            return False
        size = alone.shape[wider[0]]
        among = among.narrow(wider[0], place[0] * size, size)
    if not alone.is_floating_point():
        return not torch.equal(alone, among)
    return bool(alone.numel()) and _apart(alone, among)
