"""Residual nets whose blocks normalise and activate before each convolution.

He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016; the wide form is Zagoruyko and Komodakis, "Wide
Residual Networks", BMVC 2016.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustdeploy.nets.residual import conv3x3, init_convolutions


class PreactBlock(nn.Module):
    """Two activated 3×3 convolutions; where the size changes, the shortcut is a 1×1 convolution of the activation."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        changes = stride != 1 or in_channels != out_channels
        self.projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False) if changes else None

    def forward(self, images: Tensor) -> Tensor:
        """Map N×in×H×W to N×out×H/stride×W/stride."""
        active = F.relu(self.bn1(images))
        # The shortcut of a plain block passes the input as it is: identity mappings are the point of the paper.
        beside: Tensor = images if self.projection is None else self.projection(active)
        inner: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return inner + beside


class PreactResNet(nn.Module):
    """A stem of ``stem`` channels, a stage of ``blocks`` blocks for each of ``widths``, and one linear layer."""

    def __init__(self, blocks: int, stem: int, widths: Sequence[int], classes: int, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, stem)
        stages, before = [], stem
        for place, width in enumerate(widths):
            first = PreactBlock(before, width, 2 if place else 1)
            stages.append(nn.Sequential(first, *(PreactBlock(width, width, 1) for _ in range(blocks - 1))))
            before = width
        self.stages = nn.Sequential(*stages)
        # Blocks end in a sum that nothing has normalised, so one more normalisation is due before the linear layer.
        self.bn = nn.BatchNorm2d(before)
        self.fc = nn.Linear(before, classes)
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map N×C×H×W to N×classes logits."""
        features = F.relu(self.bn(self.stages(self.conv(images))))
        logits: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(features, 1), 1))
        return logits
