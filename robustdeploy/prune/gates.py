"""Gates: factors of single images on the channels of a net, applied to what its layers give or read.

A mask that is the same for a whole batch is folded into parameters (see ``Folding``). One that is drawn anew for each
image cannot be, so it is multiplied where the folded one would act: behind normalisation and before the activation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

from robustdeploy.errors import TrainingError
from robustdeploy.prune.information import Carrier

# A context variable and not a global, so that trainings in two threads do not share their batches' makeup.
_IMAGES: ContextVar[int | None] = ContextVar("images", default=None)


@contextmanager
def versions(images: int) -> Iterator[None]:
    """Say that rows i, ``images`` + i … of the batches scored inside the block are one image in several versions.

    All of them then go through the net under one draw, so that they differ by what was done to the image alone.
    """
    token = _IMAGES.set(images)
    try:
        yield
    finally:
        _IMAGES.reset(token)


def draws(rows: int) -> int:
    """Return how many images a batch of so many rows is to be drawn for."""
    images = _IMAGES.get()
    return rows if images is None or rows % images else images


class Gates:
    """Multiplies the layers of ``net`` that carry masks."""

    def __init__(self, net: nn.Module, carriers: Sequence[Carrier]) -> None:
        modules = dict(net.named_modules())
        self._carriers = [(modules[carrier.layer], carrier) for carrier in carriers]

    @contextmanager
    def multiplying(self, factors: Sequence[Tensor]) -> Iterator[None]:
        """Multiply inside the block by ``factors``: one table per group, images × channels."""
        handles = [_gate(module, factors[at.group], at) for module, at in self._carriers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _gate(module: nn.Module, factor: Tensor, at: Carrier) -> Any:
    """Multiply what ``module`` gives, or reads, until the handle returned is removed."""

    def gated(maps: Tensor) -> Tensor:
        channel = maps.dim() - 1 if isinstance(module, nn.Linear) else 1  # of tokens, channels come last
        scale = _placed(factor, at, maps.shape[channel])
        times, left = divmod(len(maps), len(scale))
        if left:
            raise TrainingError(f"inside the net, {len(scale)} images become {len(maps)}: whose those are is not known")
        shape = [1] * maps.dim()
        shape[0], shape[channel] = len(maps), maps.shape[channel]
        # Versions of an image lie a whole batch apart (see ``versions``).
        return maps * scale.repeat(times, 1).view(shape).to(maps.dtype)

    if at.side == "out":
        return module.register_forward_hook(lambda module, inputs, output: gated(output))
    return module.register_forward_pre_hook(lambda module, inputs: (gated(inputs[0]), *inputs[1:]))


def _placed(factor: Tensor, at: Carrier, width: int) -> Tensor:
    """Return a group's factors where its channels lie among all ``width`` of a layer; the others get 1."""
    if at.positions is None or at.channels is None:
        return factor
    whole = factor.new_ones(len(factor), width)
    return whole.index_copy(1, at.positions.to(factor.device), factor[:, at.channels.to(factor.device)])
