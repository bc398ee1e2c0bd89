"""Nets of linear layers alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from robustdeploy.nets.plain_conv import pooled_to, refuse_smaller


class LinearLayers(nn.Module):
    """Hidden linear layers with ReLU on ``side``×``side`` pixels, and logits; larger images are averaged down."""

    def __init__(self, hidden: Sequence[int], side: int, classes: int, channels: int) -> None:
        super().__init__()
        self.side = side
        widths = [channels * side * side, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], classes))

    def forward(self, images: Tensor) -> Tensor:
        """Map N×C×H×W to N×classes logits; H and W are at least ``side``."""
        refuse_smaller(images, self.side, "a net of linear layers")
        logits: Tensor = self.layers(torch.flatten(pooled_to(images, self.side), 1))
        return logits
