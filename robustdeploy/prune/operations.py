"""Operations of a net as a function of how many channels each group keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from robustdeploy.prune.groups import ChannelGroup


@dataclass(frozen=True)
class OperationModel:
    """MACs of layer l are ``scale[l] · (out0[l] + out[l]·kept) · (in0[l] + in_[l]·kept)``, summed over layers."""

    layers: tuple[str, ...]
    scale: npt.NDArray[np.float64]
    out0: npt.NDArray[np.float64]
    out: npt.NDArray[np.float64]
    in0: npt.NDArray[np.float64]
    in_: npt.NDArray[np.float64]

    def macs(self, kept: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Total MACs for ``kept`` channels per group; a leading axis is a batch of choices."""
        out = self.out0 + kept @ self.out.T
        in_ = self.in0 + kept @ self.in_.T
        total: npt.NDArray[np.float64] = (self.scale * out * in_).sum(-1)
        return total

    def macs_of(self, kept: Tensor) -> Tensor:
        """Compute the same as ``macs`` in torch, with gradients, for one choice."""
        out0, out, in0, in_, scale = (
            torch.as_tensor(part).to(kept) for part in (self.out0, self.out, self.in0, self.in_, self.scale)
        )
        total: Tensor = (scale * (out0 + out @ kept) * (in0 + in_ @ kept)).sum()
        return total


def operation_model(net: nn.Module, groups: Sequence[ChannelGroup], dense_macs: Mapping[str, int]) -> OperationModel:
    """Build the model from the dense net's MACs per layer (``cost.module.layer_macs``) and its channel groups."""
    layers = tuple(dense_macs)
    row = {name: i for i, name in enumerate(layers)}
    modules = dict(net.named_modules())
    sizes = np.array([_sizes(modules[name]) for name in layers], dtype=np.float64)
    out0, in0 = sizes[:, 0].copy(), sizes[:, 1].copy()
    scale = np.array([dense_macs[name] for name in layers]) / (sizes[:, 0] * sizes[:, 1])
    out = np.zeros((len(layers), len(groups)))
    in_ = np.zeros_like(out)
    for column, group in enumerate(groups):
        for member in group.members:
            if member.layer not in row:
                continue
            into, constant = (out, out0) if member.side == "out" else (in_, in0)
            # A channel spread over several positions (a flattened map) counts once for each of them.
            into[row[member.layer], column] += len(member.positions) / group.size
            constant[row[member.layer]] -= len(member.positions)
    return OperationModel(layers, scale, out0, out, in0, in_)


def _sizes(module: nn.Module) -> tuple[int, int]:
    """Output and input channels that MACs are proportional to; a depthwise layer has one input per output.

    Layers of other kinds are never pruned, so their MACs are a constant.
    """
    if isinstance(module, nn.Conv2d):
        return module.out_channels, module.in_channels // module.groups
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    return 1, 1
