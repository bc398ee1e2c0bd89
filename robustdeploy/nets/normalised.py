"""Normalised, a net together with the normalisation of its pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_LOGITS = ("logits", "out")
"""What the field calls the output that counts, among several."""


class Normalised(nn.Module):
    """Map pixels in [0, 1], N×C×H×W, to the logits of ``net``.

    The normalisation lives inside, and goes into every export, so a distance between images always means pixels. So do
    the steps in front of it, ``preprocess``, where there are any: pixels are then the camera's.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, net: nn.Module, mean: Sequence[float], std: Sequence[float], preprocess: nn.Module | None = None
    ) -> None:
        super().__init__()
        if len(mean) != len(std) or any(s <= 0 for s in std):
            raise ValueError(f"mean and std must have one value per channel, std above zero: {mean}, {std}")
        self.preprocess = preprocess
        self.net = net
        # Buffers, so that they move with the net, are saved with it and become constants of the export.
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return N×classes logits."""
        read = images if self.preprocess is None else self.preprocess(images)
        output = self.net((read - self.mean) / self.std)
        # In eval mode there must be one output: an export would otherwise carry heads that nobody reads.
        logits: Tensor = main_output(output) if self.training else output
        return logits


def main_output(output: Any) -> Any:
    """Return the logits among what a net gives in training mode: of several outputs the one so named, or the first.

    Nets with auxiliary heads give a tuple, a list or a mapping while they train, and a tensor otherwise.
    """
    if isinstance(output, (tuple, list, Mapping)) and not output:
        return output
    if isinstance(output, Mapping):
        return output[next((name for name in _LOGITS if name in output), next(iter(output)))]
    if isinstance(output, (tuple, list)):
        return next((getattr(output, name) for name in _LOGITS if hasattr(output, name)), output[0])
    return output


def kind_of(net: nn.Module) -> str:
    """Name the class of a net, as its author knows it."""
    return type(net.net if isinstance(net, Normalised) else net).__name__
