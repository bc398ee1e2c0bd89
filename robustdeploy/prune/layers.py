"""Layers: which a net has, what kind of work each does, and how its channels follow from what the groups keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from robustdeploy.cost.additive import Structure
from robustdeploy.cost.memory import without_values
from robustdeploy.cost.module import on_zeros
from robustdeploy.errors import BudgetError
from robustdeploy.nets.channel_pad import ChannelPad
from robustdeploy.nets.normalised import kind_of
from robustdeploy.nets.size import CONVOLUTIONS, TRANSPOSED, WEIGHTED, module_sizes, size_of
from robustdeploy.prune.groups import ChannelGroup
from robustdeploy.prune.probing import random_counts, smaller_net

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class NetLayers:
    """The layers of a dense net that take time by their channels, in the order in which they run."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    constant: Floats
    """2 × layers: what of the inputs and of the outputs always stays."""
    slope: Floats
    """2 × layers × groups: how many of them each kept channel of a group adds."""
    sizes: Counts
    """Channels of each group."""

    def channels(self, kept: npt.NDArray[np.generic]) -> tuple[Counts, Counts]:
        """Return the channels of each layer for ``kept`` channels per group; leading axes are a batch of choices."""
        inputs, outputs = (
            np.rint(constant + np.asarray(kept, dtype=np.float64) @ slope.T).astype(np.int64)
            for constant, slope in zip(self.constant, self.slope, strict=True)
        )
        return inputs, outputs

    @cached_property
    def kind_names(self) -> tuple[str, ...]:
        """Every kind once."""
        return tuple(dict.fromkeys(self.kinds))

    @cached_property
    def structure(self) -> Structure:
        """The dense net's layers as numbers."""
        inputs, outputs = self.channels(self.sizes)
        return Structure(np.array([self.kind_names.index(kind) for kind in self.kinds]), inputs, outputs)


def net_layers(net: nn.Module, groups: Sequence[ChannelGroup], image_shape: tuple[int, int, int]) -> NetLayers:
    """Find the layers of ``net``. Raises BudgetError where their channels do not follow from what the groups keep."""
    runs = on_zeros(net, (2, *image_shape), _runs)
    added = _added(net, groups)
    modules = dict(net.named_modules())
    names = tuple(name for name, _ in runs)
    kinds = tuple(_kind(modules[name], size) + (" + add" if name in added else "") for name, size in runs)
    blank, everything = without_values(net), np.array([group.size for group in groups], dtype=np.int64)

    def sides(counts: Counts) -> Floats:
        sizes = module_sizes(smaller_net(blank, groups, counts))
        return np.array([[sizes[n].inputs for n in names], [sizes[n].outputs for n in names]], dtype=np.float64)

    dense = sides(everything)
    slope = np.zeros((*dense.shape, len(groups)))
    for column, group in enumerate(groups):
        if group.size > 1:
            slope[:, :, column] = dense - sides(everything - np.eye(len(groups), dtype=np.int64)[column])
    found = NetLayers(names, kinds, dense - slope @ everything, slope, everything)
    for counts in random_counts(groups):
        if not np.array_equal(np.array(found.channels(counts)), sides(counts)):
            raise BudgetError(
                f"the channels of this {kind_of(net)}'s layers do not follow from what is kept, so its latency cannot "
                "be foretold; limit budget.ops instead"
            )
    return found


def _runs(net: nn.Module, images: Tensor) -> list[tuple[str, tuple[int, ...]]]:
    """Return every layer in the order of the forward pass, with the shape of its output."""
    found: list[tuple[str, tuple[int, ...]]] = []
    names = {module: name for name, module in net.named_modules()}

    def heard(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            found.append((names[module], tuple(output.shape)))

    hooks = [m.register_forward_hook(heard) for m in names if isinstance(m, (*WEIGHTED, ChannelPad))]
    try:
        with torch.no_grad():
            net(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _added(net: nn.Module, groups: Sequence[ChannelGroup]) -> set[str]:
    """Return the layers whose outputs are added to those of others."""
    modules = dict(net.named_modules())
    found: set[str] = set()
    for group in groups:
        makers = {m.layer for m in group.members if m.side == "out" and isinstance(modules[m.layer], WEIGHTED)}
        found |= {name for name in makers if len(makers) > 1 and not _follows(modules[name])}
    return found


def _follows(module: nn.Module) -> bool:
    """Whether a layer works channel by channel, so that it is in its inputs' group without an addition."""
    size = size_of(module)
    return size is not None and size.groups > 1 and size.groups == size.outputs


def _kind(module: nn.Module, shape: tuple[int, ...]) -> str:
    size = size_of(module)
    where = "×".join(str(n) for n in shape[2:])
    if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)) and size is not None:
        kernel = "×".join(map(str, module.kernel_size))
        stride = max(module.stride)
        name = "conv" if isinstance(module, CONVOLUTIONS) else "transposed conv"
        if size.groups > 1:
            name = f"depthwise {name}" if size.groups == size.inputs else f"{name} in {size.groups} groups"
        return f"{name} {kernel}{f'/{stride}' if stride > 1 else ''} on {where}"
    if isinstance(module, ChannelPad):
        return f"shortcut{f'/{module.stride}' if module.stride > 1 else ''} on {where}"
    return "dense" + (f" on {'×'.join(str(n) for n in shape[1:-1])}" if len(shape) > 2 else "")
