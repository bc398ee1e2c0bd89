"""Compaction: remove masked channels physically, and prove that nothing else changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustdeploy.cost.module import copied, evaluating
from robustdeploy.errors import TrainingError
from robustdeploy.nets.channel_pad import ChannelPad, kept_index
from robustdeploy.nets.size import TRANSPOSED, Size, note_size, size_of
from robustdeploy.prune.groups import ChannelGroup

# In float64 sums in another order differ by far less than this, and a masked channel that leaks by more.
PROOF_TOLERANCE = 1e-5


def compact_net(net: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of ``net`` in which each group has only its ``kept`` channels; ``net`` itself stays as it is."""
    sides, modules = _kept_positions(net, groups, kept), dict(net.named_modules())
    # One deep copy with the layers exchanged, so that a layer under two names, or in a list, stays one layer.
    smaller = copied(net, {modules[name]: _sliced(modules[name], *side) for name, side in sides.items()})
    for module in smaller.modules():
        if isinstance(module, ChannelPad):
            module.gain = None  # no mask is left to apply
    return smaller


def _kept_positions(
    net: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor]
) -> dict[str, tuple[Tensor | None, Tensor | None]]:
    """Per layer, the output and input positions that remain (None: all)."""
    modules = dict(net.named_modules())
    # Gone positions are collected, not kept ones: several groups may share one layer, and none knows of the others.
    removed: dict[tuple[str, str], list[Tensor]] = {}
    for group in groups:
        gone = torch.ones(group.size, dtype=torch.bool)
        gone[kept[group.name]] = False
        for member in group.members:
            removed.setdefault((member.layer, member.side), []).append(member.positions[gone[member.channels]])
    sides: dict[str, list[Tensor | None]] = {}
    for (layer, side), positions in removed.items():
        stays = torch.ones(_size(modules[layer], side), dtype=torch.bool)
        stays[torch.cat(positions)] = False
        sides.setdefault(layer, [None, None])[0 if side == "out" else 1] = torch.nonzero(stays).view(-1)
    return {layer: (out, in_) for layer, (out, in_) in sides.items()}


def _size(module: nn.Module, side: str) -> int:
    size = size_of(module)
    if size is None:
        raise TypeError(f"{type(module).__name__} has no channels on its {side} side")
    return size.outputs if side == "out" else size.inputs


def _sliced(module: nn.Module, out: Tensor | None, in_: Tensor | None) -> nn.Module:
    """Return a layer like ``module`` with only the positions ``out`` and ``in_``."""
    if isinstance(module, ChannelPad):
        before = module.index.tolist()
        keep_out = range(module.out_channels) if out is None else out.tolist()
        keep_in = range(module.in_channels) if in_ is None else in_.tolist()
        # The pad has no weights to slice; its choice of channels is renumbered instead.
        index = kept_index(before, list(keep_in), list(keep_out))
        return ChannelPad(len(keep_in), len(keep_out), module.stride, index).to(module.index.device)
    size = size_of(module)
    assert isinstance(size, Size)
    cut = _Cut(size, out, in_)
    sliced: dict[Tensor | nn.Module, Tensor | nn.Module] = {}
    for _, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        if value.dim() == 0:
            continue  # the batch counter of normalisation
        # Torch's order: outputs first, then the inputs of one group. Transposed convolutions have it the other way
        # round.
        dims: list[Tensor | None] = [cut.out, cut.in_of_group]
        if value.dim() == 1:
            dims = [cut.out]
        elif isinstance(module, TRANSPOSED):
            dims = [cut.in_, cut.out_of_group]
        new = value.detach()
        for dim, positions in enumerate(dims):
            new = new if positions is None else new.index_select(dim, positions.to(value.device))
        # index_select copies by itself. Where nothing is selected the two nets would else share, and train, one memory.
        fresh = new.clone() if dims.count(None) == len(dims) else new
        sliced[value] = nn.Parameter(fresh, value.requires_grad) if isinstance(value, nn.Parameter) else fresh
    layer = copied(module, sliced)
    note_size(layer, cut.size())
    return layer


class _Cut:
    """Which channels of a layer of ``size`` remain, and where they lie in its tensors.

    Of a convolution in groups either whole groups go, and with them their inputs, or every group loses channels of the
    same numbers. Of a normalisation in groups, whole groups go.
    """

    def __init__(self, size: Size, out: Tensor | None, in_: Tensor | None) -> None:
        self._dense = size
        self.out, self.in_ = out, in_
        wide, deep = size.outputs // size.groups, size.inputs // size.groups
        left = torch.arange(size.groups) if out is None else torch.unique(out.cpu() // wide)
        self._groups = len(left)
        if self._groups < size.groups:
            # Whole groups go with all their inputs, whatever else was asked of the input side.
            self.in_ = (left[:, None] * deep + torch.arange(deep)).flatten()
            self.out_of_group = self.in_of_group = None
        else:
            # All groups lose channels of the same numbers, so the first group tells for all of them.
            self.out_of_group = None if out is None else out[out < wide]
            self.in_of_group = None if in_ is None else in_[in_ < deep]

    def size(self) -> Size:
        """Return the size that remains."""
        outputs = self._dense.outputs if self.out is None else len(self.out)
        inputs = self._dense.inputs if self.in_ is None else len(self.in_)
        return Size(inputs=inputs, outputs=outputs, groups=self._groups)


@dataclass(frozen=True)
class Proof:
    """How far the masked and the compact net's scores are apart, on which images."""

    n: int
    clean: float
    adversarial: float
    precision: str
    """``float64``, in which only a real difference shows, or ``float32`` for a net that runs in nothing else."""
    float32: float
    """The largest gap in float32, where sums in another order round differently."""
    tolerance: float


def prove_equal(masked: nn.Module, compact: nn.Module, clean: Tensor, adversarial: Tensor, size: int = 128) -> Proof:
    """Compare both nets' scores image by image; raise TrainingError when they are more than 1e-5 apart.

    A net that cannot run in float64 is held to 1e-5 of its largest score instead, if that is above 1. At most ``size``
    images are scored at a time.
    """
    sets = (torch.split(clean, size), torch.split(adversarial, size))
    # float32 is measured in any case: it is what is exported, and reports tell how far rounding alone goes.
    single, largest = _gaps(masked, compact, sets, torch.float32)
    try:
        gaps, _ = _gaps(copied(masked).double(), copied(compact).double(), sets, torch.float64)
        precision, tolerance = "float64", PROOF_TOLERANCE
    # A forward pass may cast to float32 by name, or call an operator that has no float64 form.
    except RuntimeError:
        gaps, precision, tolerance = single, "float32", PROOF_TOLERANCE * max(1.0, largest)
    # max() passes NaN over or not by its place in the list, and a NaN here must never count as equal.
    largest_gap = max(gaps, key=lambda gap: math.inf if math.isnan(gap) else gap)
    # Written so that NaN fails as well.
    if not largest_gap <= tolerance:
        raise TrainingError(
            f"removing the masked channels changed the scores by {largest_gap:.2g}, more than {tolerance:.2g}, in "
            f"{precision}: a masked channel is not zero everywhere it is read, so this net cannot be compacted safely"
        )
    return Proof(len(clean), gaps[0], gaps[1], precision, max(single), tolerance)


def _gaps(
    masked: nn.Module, compact: nn.Module, sets: Sequence[Sequence[Tensor]], precision: torch.dtype
) -> tuple[list[float], float]:
    """Return the largest gap between the two nets' scores on each set of batches, and the largest score."""
    gaps, scores = [], [torch.zeros(1)]
    with evaluating(masked), evaluating(compact), torch.no_grad():
        for batches in sets:
            theirs, ours = (torch.cat([net(batch.to(precision)) for batch in batches]) for net in (masked, compact))
            gaps.append(float((theirs - ours).abs().max()))
            scores.append(theirs.abs().max().view(1).cpu())
    return gaps, float(torch.cat(scores).max())
