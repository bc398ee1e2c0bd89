"""Normalised, a net together with the normalisation of its pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Normalised(nn.Module):
    """Map pixels in [0, 1], N×C×H×W, to the logits of ``net``.

    The normalisation lives inside, and goes into every export, so a distance between images always means pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or any(s <= 0 for s in std):
            raise ValueError(f"mean and std must have one value per channel, std above zero: {mean}, {std}")
        self.net = net
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return N×classes logits."""
        return main_output(self.net((images - self.mean) / self.std))


def main_output(output: Any) -> Tensor:
    """Return the logits among what a net gives: the tensor itself, or the first of several.

    Nets with auxiliary heads give a tuple, a list or a mapping while they train; there ``logits``, ``out`` or what
    comes first is what they give otherwise.
    """
    if isinstance(output, Mapping):
        names = [name for name in ("logits", "out", "output", "main") if name in output]
        return main_output(output[names[0]] if names else next(iter(output.values())))
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Sequence) and output:
        return main_output(output[0])
    for name in ("logits", "out"):
        if hasattr(output, name):
            return main_output(getattr(output, name))
    raise TypeError(f"a net must give a tensor of logits, not {type(output).__name__}")


def kind_of(net: nn.Module) -> str:
    """Name the class of a net, as its author knows it."""
    return type(net.net if isinstance(net, Normalised) else net).__name__
