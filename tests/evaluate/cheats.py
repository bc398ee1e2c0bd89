"""Nets that look robust without being it: they hide their gradients from attacks that follow them."""

import torch
from torch import Tensor, nn

from robustdeploy.nets.resnet8 import plugin as resnet8

LEVELS = 16


class Rounded(nn.Module):
    """Rounds its input to a few levels: the derivative of rounding is zero everywhere."""

    def __init__(self, net: nn.Module, when_training: bool = True) -> None:
        super().__init__()
        self.net = net
        self.when_training = when_training

    def forward(self, images: Tensor) -> Tensor:
        if self.training and not self.when_training:
            return self.net(images)
        # The net's own normalisation comes first, so the levels are in units of that.
        return self.net(torch.round(images * LEVELS) / LEVELS)


class Saturated(nn.Module):
    """Multiplies its logits until the softmax saturates: the gradient of the cross-entropy underflows to zero."""

    def __init__(self, net: nn.Module, when_training: bool = True, factor: float = 1e4) -> None:
        super().__init__()
        self.net = net
        self.when_training = when_training
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        scores = self.net(images)
        return scores if self.training and not self.when_training else scores * self.factor


class Detached(nn.Module):
    """Cuts the graph at its input, as a preprocessing step written in another library does."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images if self.training else images.detach())


class Decoy(nn.Module):
    """Answers hard labels, or the net's scores, and hands attacks the gradient of a net that knows nothing."""

    def __init__(self, net: nn.Module, other: nn.Module, hard: bool) -> None:
        super().__init__()
        self.net, self.other, self.hard = net, other.requires_grad_(False), hard

    def forward(self, images: Tensor) -> Tensor:
        scores, other = self.net(images), self.other(images)
        if self.training:
            return scores
        scores = scores.detach()
        if self.hard:
            scores = (scores == scores.amax(1, keepdim=True)).to(scores.dtype)
        return scores + (other - other.detach())


def _honest(classes: int, channels: int) -> nn.Module:
    return resnet8()(classes, channels)


def rounded(classes: int, channels: int) -> nn.Module:
    return Rounded(_honest(classes, channels))


def saturated(classes: int, channels: int) -> nn.Module:
    return Saturated(_honest(classes, channels))


def rounded_at_inference(classes: int, channels: int) -> nn.Module:
    return Rounded(_honest(classes, channels), when_training=False)


def saturated_at_inference(classes: int, channels: int) -> nn.Module:
    return Saturated(_honest(classes, channels), when_training=False)


def decoy(classes: int, channels: int) -> nn.Module:
    return Decoy(_honest(classes, channels), _honest(classes, channels), hard=False)


def hard_decoy(classes: int, channels: int) -> nn.Module:
    return Decoy(_honest(classes, channels), _honest(classes, channels), hard=True)


def detached(classes: int, channels: int) -> nn.Module:
    return Detached(_honest(classes, channels))
