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

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Convolutions whose weights lie as outputs × inputs of a group × positions."""
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Convolutions whose weights lie as inputs × outputs of a group × positions."""
WEIGHTED = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)
"""Layers with a weight for each pair of an output and an input."""
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
NORMALISATIONS = (*BATCH_NORMS, *_INSTANCE_NORMS, nn.GroupNorm)
"""Normalisation of channels; its parameters have one number for each."""
_Count = Annotated[int, Field(ge=1, le=1 << 20)]


class Size(Noun):
    """The channels of one convolution, linear layer, normalisation, PReLU or ChannelPad."""

    inputs: _Count
    outputs: _Count
    groups: _Count = 1
    """Of a convolution or a group normalisation."""
    index: tuple[Annotated[int, Field(ge=-1)], ...] | None = None
    """Which input channel each output channel of a ChannelPad is; -1 is zero."""


def size_of(module: nn.Module) -> Size | None:
    """Return the size of a layer that can be resized, None for any other module."""
    if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)):
        return Size(inputs=module.in_channels, outputs=module.out_channels, groups=module.groups)
    if isinstance(module, nn.Linear):
        return Size(inputs=module.in_features, outputs=module.out_features)
    if isinstance(module, nn.GroupNorm):
        return Size(inputs=module.num_channels, outputs=module.num_channels, groups=module.num_groups)
    if isinstance(module, (*BATCH_NORMS, *_INSTANCE_NORMS)):
        return Size(inputs=module.num_features, outputs=module.num_features)
    if isinstance(module, nn.PReLU):
        return Size(inputs=module.num_parameters, outputs=module.num_parameters)
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
    # net.json holds differences of sizes alone; a net with other layers could not be rebuilt from it.
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
    # Sizes come from a file that anybody may have written, so torch's own conditions are asked for here.
    if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED, nn.GroupNorm)) and (
        size.inputs % size.groups or size.outputs % size.groups
    ):
        raise ArtifactError(f"layer '{name}': {size.inputs} and {size.outputs} channels in {size.groups} groups")
    if isinstance(module, (*NORMALISATIONS, nn.PReLU)) and size.inputs != size.outputs:
        raise ArtifactError(f"layer '{name}' works on {size.inputs} channels and cannot give {size.outputs}")
    if isinstance(module, ChannelPad):
        _resize_pad(name, module, size)
    elif size_of(module) is None:
        raise ArtifactError(f"layer '{name}' is a {type(module).__name__} and has no size to change")
    else:
        note_size(module, size)
        _zeros(module, _shapes(module, size))


def note_size(module: nn.Module, size: Size) -> None:
    """Set what a layer says of its own size; its tensors stay as they are."""
    if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)):
        module.in_channels, module.out_channels, module.groups = size.inputs, size.outputs, size.groups
    elif isinstance(module, nn.Linear):
        module.in_features, module.out_features = size.inputs, size.outputs
    elif isinstance(module, nn.GroupNorm):
        module.num_channels, module.num_groups = size.outputs, size.groups
    elif isinstance(module, (*BATCH_NORMS, *_INSTANCE_NORMS)):
        module.num_features = size.outputs
    elif isinstance(module, nn.PReLU):
        module.num_parameters = size.outputs


def _shapes(module: nn.Module, size: Size) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor that a layer of this size has, if it has it."""
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("bias", "running_mean", "running_var"), (size.outputs,))
    if isinstance(module, CONVOLUTIONS):
        return {**shapes, "weight": (size.outputs, size.inputs // size.groups, *module.kernel_size)}
    if isinstance(module, TRANSPOSED):
        return {**shapes, "weight": (size.inputs, size.outputs // size.groups, *module.kernel_size)}
    return {**shapes, "weight": (size.outputs, size.inputs) if isinstance(module, nn.Linear) else (size.outputs,)}


def _resize_pad(name: str, module: ChannelPad, size: Size) -> None:
    try:
        module.resize(size.inputs, size.outputs, size.index)
    except ValueError as error:
        raise ArtifactError(f"layer '{name}': {error}") from error


def _zeros(module: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Replace each parameter or buffer that ``module`` has by zeros of the given shape."""
    for name, shape in shapes.items():
        old = getattr(module, name, None)
        if isinstance(old, nn.Parameter):
            setattr(module, name, nn.Parameter(old.new_zeros(shape), requires_grad=old.requires_grad))
        elif isinstance(old, torch.Tensor):
            setattr(module, name, old.new_zeros(shape))
