"""The sizes of a net's layers: how a compact net differs from the dense one, and how to give a layer another size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from robustdeploy.core.model import Noun
from robustdeploy.errors import ArtifactError
from robustdeploy.nets.channel_pad import ChannelPad

_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_Count = Annotated[int, Field(ge=1, le=1 << 20)]


class Size(Noun):
    """The channels of one convolution, linear layer, batch normalisation or ChannelPad."""

    inputs: _Count
    outputs: _Count
    groups: _Count = 1
    index: tuple[Annotated[int, Field(ge=-1)], ...] | None = None
    """Which input channel each output channel of a ChannelPad is; -1 is zero."""


def size_of(module: nn.Module) -> Size | None:
    """Return the size of a layer that can be resized, None for any other module."""
    if isinstance(module, nn.Conv2d):
        return Size(inputs=module.in_channels, outputs=module.out_channels, groups=module.groups)
    if isinstance(module, nn.Linear):
        return Size(inputs=module.in_features, outputs=module.out_features)
    if isinstance(module, _NORM):
        return Size(inputs=module.num_features, outputs=module.num_features)
    if isinstance(module, ChannelPad):
        index = tuple(module.index.tolist())
        return Size(inputs=module.in_channels, outputs=module.out_channels, index=index)
    return None


def module_sizes(net: nn.Module) -> dict[str, Size]:
    """Return the size of every layer of ``net`` that can be resized, by module name."""
    sizes = {name: size_of(module) for name, module in net.named_modules()}
    return {name: size for name, size in sizes.items() if size is not None}


def size_differences(dense: nn.Module, compact: nn.Module) -> dict[str, Size]:
    """Return the sizes in ``compact`` that differ from ``dense``; the two must have the same layers."""
    before, after = module_sizes(dense), module_sizes(compact)
    if strange := sorted(set(before) ^ set(after)):
        raise ArtifactError(
            f"the compact net and the dense net have different layers: {', '.join(strange[:5])}; "
            "a compact net may only have fewer channels"
        )
    return {name: size for name, size in after.items() if size != before[name]}


def resize_modules(net: nn.Module, sizes: Mapping[str, Size]) -> None:
    """Give the named layers of ``net`` new sizes, in place; their values are zeros until weights are loaded."""
    for name, size in sizes.items():
        resize_module(net, name, size)


def resize_module(net: nn.Module, name: str, size: Size) -> None:
    """Give one layer of ``net`` a new size, in place; a layer that is not there or of another kind is ArtifactError."""
    try:
        module = net.get_submodule(name)
    except AttributeError as error:
        raise ArtifactError(f"the net has no layer '{name}'") from error
    if isinstance(module, nn.Conv2d):
        _resize_conv(name, module, size)
    elif isinstance(module, nn.Linear):
        module.in_features, module.out_features = size.inputs, size.outputs
        _zeros(module, {"weight": (size.outputs, size.inputs), "bias": (size.outputs,)})
    elif isinstance(module, _NORM):
        _resize_norm(name, module, size)
    elif isinstance(module, ChannelPad):
        _resize_pad(name, module, size)
    else:
        raise ArtifactError(f"layer '{name}' is a {type(module).__name__} and has no size to change")


def _resize_conv(name: str, module: nn.Conv2d, size: Size) -> None:
    if size.inputs % size.groups or size.outputs % size.groups:
        raise ArtifactError(f"layer '{name}': {size.inputs} and {size.outputs} channels in {size.groups} groups")
    module.in_channels, module.out_channels, module.groups = size.inputs, size.outputs, size.groups
    weight = (size.outputs, size.inputs // size.groups, *module.kernel_size)
    _zeros(module, {"weight": weight, "bias": (size.outputs,)})


def _resize_norm(name: str, module: nn.Module, size: Size) -> None:
    if size.inputs != size.outputs:
        raise ArtifactError(f"layer '{name}' normalises {size.inputs} channels and cannot give {size.outputs}")
    assert isinstance(module, _NORM)
    module.num_features = size.outputs
    _zeros(module, dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (size.outputs,)))


def _resize_pad(name: str, module: ChannelPad, size: Size) -> None:
    try:
        module.resize(size.inputs, size.outputs, size.index)
    except ValueError as error:
        raise ArtifactError(f"layer '{name}': {error}") from error


def _zeros(module: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Replace each parameter or buffer that ``module`` has by zeros of the given shape."""
    for name, shape in shapes.items():
        old = getattr(module, name)
        if isinstance(old, nn.Parameter):
            setattr(module, name, nn.Parameter(old.new_zeros(shape), requires_grad=old.requires_grad))
        elif isinstance(old, torch.Tensor):
            setattr(module, name, old.new_zeros(shape))
