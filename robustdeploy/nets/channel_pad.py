"""ChannelPad, the shortcut without parameters of the CIFAR residual nets (He et al. 2016, option A).

It subsamples and lets each output channel be one input channel or zero. Pruning only changes that choice, so a compact
net keeps a shortcut of the same kind and the streams on both sides of it can be pruned independently.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def centred_index(in_channels: int, out_channels: int) -> list[int]:
    """Return the dense choice: the inputs in order, zeros on both sides, the odd one behind."""
    before = (out_channels - in_channels) // 2
    return [j - before if 0 <= j - before < in_channels else -1 for j in range(out_channels)]


def kept_index(index: Sequence[int], keep_in: Sequence[int], keep_out: Sequence[int]) -> list[int]:
    """Return the choice after only the channels ``keep_in`` and ``keep_out`` remain, in that order."""
    position = {channel: place for place, channel in enumerate(keep_in)}
    return [position.get(index[j], -1) for j in keep_out]


def _padding(index: Sequence[int], in_channels: int) -> tuple[int, int] | None:
    """Return zeros before and behind where ``index`` is all inputs in order between zeros, else None."""
    chosen = [i for i in index if i >= 0]
    if not chosen or chosen != list(range(in_channels)):
        return None
    before = index.index(0)
    whole = list(index[before : before + in_channels]) == chosen
    return (before, len(index) - before - in_channels) if whole else None


class ChannelPad(nn.Module):
    """Subsample by ``stride``; output channel j is input channel ``index[j]``, or zero where that is -1.

    ``gain`` scales each output channel. It is a buffer, and not a saved one, so that channel masks reach it by name
    through ``torch.func.functional_call``; where it is None nothing is multiplied.
    """

    index: Tensor
    gain: Tensor | None
    choice: Tensor
    """in×out, 1 where that output is that input: ``index`` as a matrix, for training."""
    padding: tuple[int, int] | None
    """Zeros before and behind, where ``index`` is all inputs in order between zeros."""
    multiplies = False
    """Whether it multiplies in eval mode too, as a net does well whose gradients are followed."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, index: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.stride = stride
        # A saved buffer: the choice is part of a compact net, as weights are.
        self.register_buffer("index", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("gain", torch.ones(0), persistent=False)
        # Derived from the index, so it is not saved; two copies of one truth could contradict each other.
        self.register_buffer("choice", torch.zeros(0), persistent=False)
        self.resize(in_channels, out_channels, index)
        # Loading replaces the index in place, behind the back of what was derived from it.
        self.register_load_state_dict_post_hook(_follow_index)  # type: ignore[no-untyped-call]

    def resize(self, in_channels: int, out_channels: int, index: Sequence[int] | None = None) -> None:
        """Take other channels, the dense choice unless ``index`` says otherwise; a gain becomes ones again."""
        chosen = centred_index(in_channels, out_channels) if index is None else [int(i) for i in index]
        if len(chosen) != out_channels or any(not -1 <= i < in_channels for i in chosen):
            raise ValueError(f"index must name {out_channels} channels, each -1 or below {in_channels}, not {chosen}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.index = torch.tensor(chosen, dtype=torch.int64, device=self.index.device)
        self.gain = None if self.gain is None else torch.ones(out_channels, device=self.index.device)
        _follow_index(self, None)

    def forward(self, images: Tensor) -> Tensor:
        """Map N×in×H×W to N×out×⌈H/stride⌉×⌈W/stride⌉."""
        if self.training or self.multiplies:
            return self._multiplied(images)
        small = images[:, :, :: self.stride, :: self.stride]
        # Plain padding becomes one Pad node in ONNX, which every toolchain has.
        if self.padding is not None:
            wide = F.pad(small, (0, 0, 0, 0, *self.padding))
        else:  # a zero channel in front makes -1 an address like any other, with no branch on data
            wide = F.pad(small, (0, 0, 0, 0, 1, 0)).index_select(1, self.index + 1)
        return wide if self.gain is None else wide * self.gain.to(wide.dtype).view(1, -1, 1, 1)

    def _multiplied(self, images: Tensor) -> Tensor:
        """Return the same values by a product with ones and zeros, which stays channels last on the way back too.

        Selecting channels leaves that layout, and everything that meets its result is then several times slower. An
        export and a count of operations read the other way, which has nothing to multiply.
        """
        small = images.permute(0, 2, 3, 1)[:, :: self.stride, :: self.stride]
        choice = self.choice if self.gain is None else self.choice * self.gain
        wide = small.flatten(0, 2) @ choice.to(small.dtype)  # one product, not one for each image
        return wide.view(*small.shape[:3], self.out_channels).permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        """Show the sizes as torch's own layers do."""
        return f"{self.in_channels}, {self.out_channels}, stride={self.stride}"


def _follow_index(module: nn.Module, _: object) -> None:
    assert isinstance(module, ChannelPad)
    if module.index.is_meta:  # of a net that is only counted
        return
    module.padding = _padding(module.index.tolist(), module.in_channels)
    # Zero channels have index −1: one place further on, their column is the first, which is cut off.
    module.choice = F.one_hot(module.index + 1, module.in_channels + 1)[:, 1:].T.float()


def set_gains(net: nn.Module, on: bool) -> None:
    """Give every ChannelPad of ``net`` a gain of ones, or none at all (one multiplication less in an export)."""
    for module in net.modules():
        if isinstance(module, ChannelPad):
            module.gain = torch.ones(module.out_channels, device=module.index.device) if on else None
