"""Count the operations of a torch net: one MAC per multiplication in convolutions and linear layers, batch 1."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def layer_macs(net: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, int]:
    """Return the MACs of every convolution and linear layer of ``net`` for one image of C×H×W, by module name.

    One forward pass in eval mode on zeros finds the sizes; a layer that runs twice counts twice. Normalisation,
    activation, pooling and bias are not counted, and neither are products outside of layers (attention).
    """
    counts: dict[str, int] = {}
    handles = []
    for name, module in net.named_modules():
        if isinstance(module, _CONV + _TRANSPOSED + (nn.Linear,)):
            counts[name] = 0

            def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                counts[name] += _macs(layer, inputs[0], output)

            handles.append(module.register_forward_hook(count))
    try:
        run_on_zeros(net, image_shape)
    finally:
        for handle in handles:
            handle.remove()
    return counts


def macs(net: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Return the MACs of the whole net for one image of C×H×W."""
    return sum(layer_macs(net, image_shape).values())


def params(net: nn.Module) -> int:
    """Return how many parameters ``net`` has; buffers such as running means are none."""
    return sum(parameter.numel() for parameter in net.parameters())


def run_on_zeros(net: nn.Module, image_shape: tuple[int, int, int]) -> Tensor:
    """Return what ``net`` gives for one black image in eval mode; its modes are as before afterwards."""
    like = next(net.parameters(), torch.zeros(()))
    images = torch.zeros(1, *image_shape, device=like.device, dtype=like.dtype)
    with evaluating(net), torch.no_grad():
        output: Tensor = net(images)
    return output


def copied(net: nn.Module) -> nn.Module:
    """Return a deep copy of ``net``, of one with the old weight and spectral normalisation too.

    Those keep the weight that the last pass computed, with its graph, which torch refuses to copy.
    """
    held = {
        id(value): value.detach().clone()
        for module in net.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(net, held)


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Put ``net`` into eval mode and give every module its own mode back afterwards."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _macs(layer: nn.Module, images: Tensor, output: Tensor) -> int:
    if isinstance(layer, nn.Linear):
        return output.numel() * layer.in_features
    if isinstance(layer, _TRANSPOSED):
        return images.numel() * (layer.out_channels // layer.groups) * math.prod(layer.kernel_size)
    assert isinstance(layer, _CONV)
    return output.numel() * (layer.in_channels // layer.groups) * math.prod(layer.kernel_size)
