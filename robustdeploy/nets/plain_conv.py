"""Plain convolutional nets: VGG with batch normalisation, LeNet, and strided convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustdeploy.nets.residual import conv3x3, init_convolutions


class VggBn(nn.Module):
    """Stages of 3×3 convolutions with batch normalisation, halved in between, and a classifier.

    After the last stage the image is pooled to ``pool``×``pool``; ``hidden`` are the linear layers before the logits.
    """

    def __init__(
        self, stages: Sequence[Sequence[int]], pool: int, hidden: Sequence[int], classes: int, channels: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = channels
        for place, stage in enumerate(stages):
            # In front of each stage but the first, so that small images keep enough pixels for the last one.
            layers += [nn.MaxPool2d(2)] if place else []
            for width in stage:
                layers += [conv3x3(before, width), nn.BatchNorm2d(width), nn.ReLU()]
                before = width
        self.features = nn.Sequential(*layers)
        self.pool = pool
        before *= pool * pool
        head: list[nn.Module] = []
        for width in hidden:
            head += [nn.Linear(before, width), nn.ReLU()]
            before = width
        self.head = nn.Sequential(*head, nn.Linear(before, classes))
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map N×C×H×W to N×classes logits."""
        features = pooled_to(self.features(images), self.pool)
        logits: Tensor = self.head(torch.flatten(features, 1))
        return logits


class LeNetCaffe(nn.Module):
    """Two 5×5 convolutions, each halved, and two linear layers; 28×28 is its own size, larger images are pooled."""

    def __init__(self, widths: tuple[int, int, int], classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 5)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 5)
        self.fc1 = nn.Linear(widths[1] * 16, widths[2])
        self.fc2 = nn.Linear(widths[2], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map N×C×H×W to N×classes logits; H and W are at least 28."""
        # The first linear layer reads 4×4 maps, and below 28 pixels there are none of that size.
        refuse_smaller(images, 28, "LeNet")
        features = F.max_pool2d(F.relu(self.conv1(images)), 2)
        features = pooled_to(F.max_pool2d(F.relu(self.conv2(features)), 2), 4)
        logits: Tensor = self.fc2(F.relu(self.fc1(torch.flatten(features, 1))))
        return logits


class StridedConvolutions(nn.Module):
    """Convolutions of 8×8, 6×6 and 5×5 in steps of 2, 2 and 1, and a linear layer; larger images are pooled at the end.

    Source: Galloway et al. 2018, the net in full precision.
    """

    def __init__(self, width: int, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 8, stride=2, padding=3)
        self.conv2 = nn.Conv2d(width, 2 * width, 6, stride=2)
        self.conv3 = nn.Conv2d(2 * width, 2 * width, 5)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map N×C×H×W to N×classes logits; H and W are at least 28."""
        refuse_smaller(images, 28, "this net")
        features = images
        for convolution in (self.conv1, self.conv2, self.conv3):
            features = F.relu(convolution(features))
        logits: Tensor = self.fc(torch.flatten(pooled_to(features, 1), 1))
        return logits


def refuse_smaller(images: Tensor, side: int, net: str) -> None:
    """Raise ValueError where N×C×H×W images have fewer rows or columns than a net needs."""
    if min(images.shape[-2:]) < side:
        raise ValueError(
            f"{net} needs images of at least {side}×{side} pixels and got {images.shape[-2]}×{images.shape[-1]}; "
            "choose a residual net, or enlarge the images with data.size"
        )


def pooled_to(features: Tensor, side: int) -> Tensor:
    """Average N×C×H×W to ``side``×``side`` with one window for all places, so that every toolchain can run it."""
    height, width = features.shape[-2:]
    if (height, width) == (side, side):
        return features
    if side == 1:
        return F.adaptive_avg_pool2d(features, 1)
    if min(height, width) < side:
        raise ValueError(f"the last features are {height}×{width}, smaller than {side}×{side}: use larger images")
    # torch's adaptive pooling uses windows of several sizes where side is no divisor, which ONNX cannot say in one
    # node.
    stride = (height // side, width // side)
    window = (height - (side - 1) * stride[0], width - (side - 1) * stride[1])
    return F.avg_pool2d(features, window, stride)
