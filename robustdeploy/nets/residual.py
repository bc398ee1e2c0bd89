"""Residual nets for small images: a 3×3 stem, stages of basic blocks, one linear layer.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2. With 16, 32 and 64 channels and 32×32
colour images ResNet-20 has 40.55 million MACs and 0.27 million parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustdeploy.nets.channel_pad import ChannelPad


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3×3 convolution without bias that keeps the size at stride 1."""
    # A bias would be taken out again by the mean of the next normalisation.
    return nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)


def init_convolutions(net: nn.Module) -> None:
    """Draw convolutions from He's normal distribution (fan out), from torch's global generator."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            # Fan out keeps the variance of gradients (He et al., ICCV 2015, section 2.2).
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride, projection)

    def forward(self, images: Tensor) -> Tensor:
        """Map N×in×H×W to N×out×H/stride×W/stride."""
        inner = F.relu(self.bn1(self.conv1(images)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(images))


class ResidualNet(nn.Module):
    """A residual net with one stage of ``blocks`` blocks for each of ``widths``; each stage but the first halves.

    A shortcut that changes the size has no parameters, or is a 1×1 convolution with ``projection``.
    """

    def __init__(
        self, blocks: int, widths: Sequence[int], classes: int, channels: int, projection: bool = False
    ) -> None:
        super().__init__()
        self.conv = conv3x3(channels, widths[0])
        self.bn = nn.BatchNorm2d(widths[0])
        stages = []
        for place, width in enumerate(widths):
            first = BasicBlock(widths[max(place - 1, 0)], width, 2 if place else 1, projection)
            stages.append(nn.Sequential(first, *(BasicBlock(width, width, 1, projection) for _ in range(blocks - 1))))
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(widths[-1], classes)
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map N×C×H×W to N×classes logits."""
        features = self.stages(F.relu(self.bn(self.conv(images))))
        logits: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(features, 1), 1))
        return logits


def _shortcut(in_channels: int, out_channels: int, stride: int, projection: bool) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    # Option A of He et al., section 4.2: the residual net has exactly the parameters of a plain one.
    if not projection:
        return ChannelPad(in_channels, out_channels, stride)
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))
