"""Operations and parameters of a net as functions of how many channels each group keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from robustdeploy.cost.products import Product
from robustdeploy.nets.size import WEIGHTED, size_of
from robustdeploy.prune.groups import ChannelGroup

Floats = npt.NDArray[np.float64]
FACTORS = 2
"""Numbers of channels that what a layer costs is proportional to: those of its outputs and of its inputs."""


@dataclass(frozen=True)
class Multilinear:
    """The sum over terms t of ``scale[t]`` times ``constant[f, t] + slope[f, t]·kept`` of every factor f."""

    scale: Floats
    constant: Floats
    slope: Floats

    def of(self, kept: Floats) -> Floats:
        """Return the cost of ``kept`` channels per group; a leading axis is a batch of choices."""
        total: Floats = self.terms(kept).sum(-1)
        return total

    def terms(self, kept: Floats) -> Floats:
        """Return what each term adds."""
        terms = self.scale
        # All terms at once, and all choices: a search asks for thousands of them together.
        for constant, slope in zip(self.constant, self.slope, strict=True):
            terms = terms * (constant + kept @ slope.T)
        return terms

    def parts(self) -> list[npt.NDArray[np.int64]]:
        """Return no smaller parts: every group has a share in the one sum."""
        return []

    def blamed(self, kept: Floats, limit: float, share: float) -> npt.NDArray[np.bool_]:
        """Say which groups have a part in ``kept`` using more than ``share`` of ``limit``: all with a cost, or none."""
        costs: npt.NDArray[np.bool_] = (self.slope != 0).any((0, 1))
        # Every channel adds to the one sum, so no group can be told from another.
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


def product_model(net: nn.Module, groups: Sequence[ChannelGroup], products: Sequence[Product]) -> Multilinear:
    """Model the MACs of each product, a term for each, as its layer's own weights have them; others are a constant."""
    modules = dict(net.named_modules())
    return _multilinear([_product_term(modules, product) for product in products], groups)


def _product_term(modules: Mapping[str, nn.Module], product: Product) -> _Term:
    weight = f"{product.layer}.weight" if product.layer else "weight"
    # Attention multiplies two computed tensors; its size is probed where it does not stay the same (see probing.py).
    if product.operand is None or product.operand.name != weight:
        return _Term("", product.macs, 1)
    return _Term(product.layer, product.macs, *_sizes(modules[product.layer]), reads=True)


def parameter_model(net: nn.Module, groups: Sequence[ChannelGroup]) -> Multilinear:
    """Build the model of all parameters of ``net``: weights are proportional to two sides, the rest to one or none."""
    return _multilinear([term for term in _parameter_terms(net) if term.total], groups)


def _parameter_terms(net: nn.Module) -> Iterable[_Term]:
    seen: set[int] = set()
    for name, module in net.named_modules():
        outputs, inputs = _sizes(module)
        for kind, parameter in module.named_parameters(recurse=False):
            # A shared parameter is stored once. ``named_modules`` would meet it under each of its layers.
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if size_of(module) is None:
                yield _Term("", parameter.numel(), 1)  # of kinds that are never pruned
            elif kind == "weight" and parameter.dim() > 1:
                yield _Term(name, parameter.numel(), outputs, inputs, reads=True)
            else:
                yield _Term(name, parameter.numel(), outputs)


def _multilinear(terms: Sequence[_Term], groups: Sequence[ChannelGroup]) -> Multilinear:
    rows: dict[str, list[int]] = {}
    for row, term in enumerate(terms):
        rows.setdefault(term.layer, []).append(row)
    constant = np.array([[term.outputs for term in terms], [term.inputs for term in terms]], dtype=np.float64)
    # Totals are counted, not derived, so groups, strides and kernel sizes need no formula here.
    scale = np.array([term.total for term in terms]) / constant.prod(0)
    slope = np.zeros((FACTORS, len(terms), len(groups)))
    for column, group in enumerate(groups):
        for member in group.members:
            factor = 0 if member.side == "out" else 1
            for row in rows.get(member.layer, ()):
                if member.side == "out" or terms[row].reads:
                    # A channel spread over several positions (a flattened map) counts once for each of them.
                    slope[factor, row, column] += len(member.positions) / group.size
                    constant[factor, row] -= len(member.positions)
    return Multilinear(scale, constant, slope)


def _sizes(module: nn.Module) -> tuple[int, int]:
    """Output and input channels that costs are proportional to.

    Layers of kinds that are never pruned have a constant cost.
    """
    size = size_of(module)
    if size is None:
        return 1, 1
    return size.outputs, size.inputs if isinstance(module, WEIGHTED) else 1
