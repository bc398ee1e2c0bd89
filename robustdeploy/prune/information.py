"""Information: how much the loss knows of each channel mask, from the gradients of single images.

Per channel group, the Fisher information of its masks is the mean over images of g · gᵀ, g being the gradient of one
image's loss in the group's masks (Theis et al. 2018; Liu et al., "Group Fisher Pruning", ICML 2021, use its diagonal).
It stands for the Hessian: removing the channels R of a group while the masks of the others may make up for them raises
the loss by about ½ · 1ᵀ S 1, with S the Schur complement of the others (the optimal brain surgeon of Hassibi and Stork,
NIPS 1992, for whole sets). Two channels that say the same are worth one, and what the rest can take over is worth
nothing; the gradient of a batch's mean, in which images cancel out, shows neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from robustdeploy.errors import TrainingError
from robustdeploy.prune.positions import Side

RIDGE = 1e-3
"""Added to the diagonal, as a share of its mean: few images leave the matrix without full rank."""


# A context variable and not a global, so that trainings in two threads do not switch each other's hooks.
_WATCHES: ContextVar[bool] = ContextVar("watches", default=True)


@contextmanager
def unwatched() -> Iterator[None]:
    """Watch no pass forward inside the block; an attack's gradients are taken in the images alone."""
    token = _WATCHES.set(False)
    try:
        yield
    finally:
        _WATCHES.reset(token)


def watched() -> bool:
    """Whether a pass forward is one that the loss comes from, not an attack's."""
    return _WATCHES.get()


@dataclass(frozen=True)
class Carrier:
    """A layer whose channels ``positions`` (None: all, in order) are scaled by the masks ``channels`` of a group."""

    layer: str
    group: int
    positions: Tensor | None
    channels: Tensor | None
    side: Side = "out"
    """Whether the layer's outputs are scaled, or its inputs (by its own weights)."""


class ImageGradients:
    """Takes the gradients of single images in the masks, from the same pass back that trains the weights."""

    def __init__(self, net: nn.Module, carriers: Sequence[Carrier]) -> None:
        modules = dict(net.named_modules())
        self._carriers = [(modules[carrier.layer], carrier) for carrier in carriers]
        self._gates: list[list[Tensor]] = []

    @contextmanager
    def watching(self, masks: Sequence[Tensor], images: int) -> Iterator[None]:
        """Watch the layers for one forward pass of ``images`` images, under ``masks``, unless it is ``unwatched``."""
        if not watched():
            yield
            return
        values = [mask.detach() for mask in masks]
        # Leaves that only collect: their values are never used, and autograd adds up the gradients of all carriers in
        # them.
        gates = [torch.zeros(images, len(mask), device=mask.device, requires_grad=True) for mask in values]
        handles = [_watch(module, gates[at.group], values[at.group], at) for module, at in self._carriers]
        self._gates.append(gates)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def take(self, images: int) -> Tensor | None:
        """Return the information of the passes that went back since the last call, or None if none did.

        It is flat: the groups' matrices, n×n, one behind the other. ``images`` is how many the loss is the mean of;
        where a task scores each of them more than once, clean and attacked, in one pass or in several, what its scores
        tell is one gradient. Passes whose gradient was taken in the images alone, as an attack does, do not count. With
        several processes it is the mean over all of them, and each must call.
        """
        passes, self._gates = self._gates, []
        # A pass that no backward pass has reached belongs to an attack or to scores that were only looked at.
        told = [gates for gates in passes if any(gate.grad is not None for gate in gates)]
        if not told:
            return None
        own = [[torch.zeros_like(gate) if gate.grad is None else gate.grad for gate in gates] for gates in told]
        groups = [_folded(torch.cat(parts), images) for parts in zip(*own, strict=True)]
        # The loss is a mean over N images, so each gradient holds 1/N: the mean of N² times their products is N times
        # the sum.
        return _mean_of_processes(torch.cat([(images * group.T @ group).flatten() for group in groups]))


def _folded(rows: Tensor, images: int) -> Tensor:
    """Add up the rows that are of one image; they come batch behind batch. Others stay as they are."""
    # Clean and attacked images behind each other (see train/mixing.py) are two rows of one image's gradient.
    return rows.view(-1, images, rows.shape[1]).sum(0) if len(rows) % images == 0 else rows


def _watch(module: nn.Module, gate: Tensor, mask: Tensor, at: Carrier) -> Any:
    """Watch what ``module`` gives, or reads, until the handle returned is removed."""

    def watched(maps: Tensor) -> Tensor:
        last = isinstance(module, nn.Linear)  # of tokens, channels come last
        seen: Tensor = _Watched.apply(maps.movedim(-1, 1) if last else maps, gate, mask, at.positions, at.channels)
        return seen.movedim(1, -1) if last else seen

    if at.side == "out":
        return module.register_forward_hook(lambda module, inputs, output: watched(output))
    return module.register_forward_pre_hook(lambda module, inputs: (watched(inputs[0]), *inputs[1:]))


class _Watched(torch.autograd.Function):
    """The identity on a layer's channels; its pass back tells ``gate``, images×channels, the masks' gradient.

    A mask scales its channel, so the gradient in it is value · gradient over the mask, summed over the map. The
    values are copied because layers behind may overwrite them.
    """

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, gate: Tensor, mask: Tensor, positions: Tensor | None, channels: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(output, mask, positions, channels)
        ctx.shape = gate.shape
        return output.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        output, mask, positions, channels = ctx.saved_tensors
        (gradient,) = gradients
        product = (output * gradient).movedim(1, -1)  # channels last, as the maps mostly lie in memory
        scaled = product.reshape(len(product), -1, product.shape[-1]).sum(1).float()  # adds up in float32 as it is
        images, width = ctx.shape
        if positions is not None:
            whole = scaled.new_zeros(len(scaled), width)
            scaled = whole.index_add_(1, channels.to(whole.device), scaled[:, positions.to(whole.device)])
        if len(scaled) % images:
            raise TrainingError(f"inside the net, {images} images become {len(scaled)}: whose those are is not known")
        # The output is already scaled by the mask. ALMOST_ZERO instead of 0 keeps this division sound for masked
        # channels.
        return gradient, _folded(scaled, images) / mask, None, None, None


def _mean_of_processes(value: Tensor) -> Tensor:
    if dist.is_initialized():
        dist.all_reduce(value)
        value = value / dist.get_world_size()
    return value


def worth_in_order(information: Tensor) -> Tensor:
    """Return what each of n channels, the last to go first, adds to those before it, in float64; it never rises.

    ``information`` is n×n. The channels from the k-th on can be given up for half the sum of their worths: with
    information = L·Lᵀ, the Schur complement of the first k is that of the rest of L, and 1ᵀ S 1 the sum of the squares
    of its columns' sums.
    """
    # Imported here, so that what trains no masks does not wait for SciPy to load.
    from scipy.optimize import isotonic_regression

    # float64: a matrix from few images is nearly singular, and its factor in float32 may fail.
    matrix = information.double()
    matrix = matrix + torch.eye(len(matrix), device=matrix.device) * (RIDGE * matrix.diagonal().mean())
    factor, failed = torch.linalg.cholesky_ex(matrix)
    # Where even the ridge leaves it indefinite, channels count as if each stood alone.
    worth = matrix.diagonal() if int(failed) else factor.sum(0).square()
    # A cut by value must take a prefix of the order. Where a later channel adds more, the two share their mean.
    return torch.from_numpy(isotonic_regression(worth.cpu().numpy(), increasing=False).x.copy())
