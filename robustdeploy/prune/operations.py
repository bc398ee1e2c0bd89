"""Operations and parameters of a net as functions of how many channels each group keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from robustdeploy.nets.size import WEIGHTED, size_of
from robustdeploy.prune.groups import ChannelGroup

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bilinear:
    """The sum over terms t of ``scale[t] · (out0[t] + out[t]·kept) · (in0[t] + in_[t]·kept)``."""

    scale: Floats
    out0: Floats
    out: Floats
    in0: Floats
    in_: Floats

    def of(self, kept: Floats) -> Floats:
        """Return the cost of ``kept`` channels per group; a leading axis is a batch of choices."""
        out = self.out0 + kept @ self.out.T
        in_ = self.in0 + kept @ self.in_.T
        total: Floats = (self.scale * out * in_).sum(-1)
        return total

    def parts(self) -> list[npt.NDArray[np.int64]]:
        """Return no smaller parts: every group has a share in the one sum."""
        return []

    def blamed(self, kept: Floats, limit: float, share: float) -> npt.NDArray[np.bool_]:
        """Say which groups have a part in ``kept`` using more than ``share`` of ``limit``: all with a cost, or none."""
        costs: npt.NDArray[np.bool_] = (self.out != 0).any(0) | (self.in_ != 0).any(0)
        return costs & bool(self.of(kept) / limit > share)


@dataclass(frozen=True)
class _Term:
    """What one layer costs, and the numbers of output and input channels that this is proportional to."""

    layer: str
    total: float
    outputs: int
    inputs: int = 1
    reads: bool = False
    """Whether it falls with the layer's input channels as well."""


def operation_model(net: nn.Module, groups: Sequence[ChannelGroup], dense_macs: Mapping[str, int]) -> Bilinear:
    """Build the model of MACs from the dense net's MACs per layer (``cost.module.layer_macs``) and its groups."""
    modules = dict(net.named_modules())
    terms = (_Term(name, macs, *_sizes(modules[name]), reads=True) for name, macs in dense_macs.items())
    return _bilinear(terms, groups)


def parameter_model(net: nn.Module, groups: Sequence[ChannelGroup]) -> Bilinear:
    """Build the model of all parameters of ``net``: weights are proportional to two sides, the rest to one or none."""
    return _bilinear(_parameter_terms(net), groups)


def _parameter_terms(net: nn.Module) -> Iterable[_Term]:
    seen: set[int] = set()
    for name, module in net.named_modules():
        outputs, inputs = _sizes(module)
        for kind, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if size_of(module) is None:
                yield _Term("", parameter.numel(), 1)  # of kinds that are never pruned
            elif kind == "weight" and parameter.dim() > 1:
                yield _Term(name, parameter.numel(), outputs, inputs, reads=True)
            else:
                yield _Term(name, parameter.numel(), outputs)


def _bilinear(terms: Iterable[_Term], groups: Sequence[ChannelGroup]) -> Bilinear:
    listed = [term for term in terms if term.total]
    rows: dict[str, list[int]] = {}
    for row, term in enumerate(listed):
        rows.setdefault(term.layer, []).append(row)
    out0 = np.array([term.outputs for term in listed], dtype=np.float64)
    in0 = np.array([term.inputs for term in listed], dtype=np.float64)
    scale = np.array([term.total for term in listed]) / (out0 * in0)
    out = np.zeros((len(listed), len(groups)))
    in_ = np.zeros_like(out)
    for column, group in enumerate(groups):
        for member in group.members:
            into, constant = (out, out0) if member.side == "out" else (in_, in0)
            for row in rows.get(member.layer, ()):
                if member.side == "out" or listed[row].reads:
                    # A channel spread over several positions (a flattened map) counts once for each of them.
                    into[row, column] += len(member.positions) / group.size
                    constant[row] -= len(member.positions)
    return Bilinear(scale, out0, out, in0, in_)


def _sizes(module: nn.Module) -> tuple[int, int]:
    """Output and input channels that costs are proportional to.

    Layers of kinds that are never pruned have a constant cost.
    """
    size = size_of(module)
    if size is None:
        return 1, 1
    return size.outputs, size.inputs if isinstance(module, WEIGHTED) else 1
