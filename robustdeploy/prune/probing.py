"""Probing: how the operations of a net follow the channels kept, held against counts of smaller nets.

What a layer's own weights cost is proportional to its outputs and inputs. Other products (attention, recurrent cells,
whatever a forward pass multiplies itself) may follow a group or stay as they are: where the smaller nets say otherwise,
each of their sizes is found from nets with one channel less in one group.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from robustdeploy.cost.memory import without_values
from robustdeploy.cost.module import products
from robustdeploy.cost.products import Product, as_named
from robustdeploy.errors import BudgetError
from robustdeploy.nets.normalised import kind_of
from robustdeploy.onboard.draws import Draws, key
from robustdeploy.prune.compact import compact_net
from robustdeploy.prune.groups import ChannelGroup
from robustdeploy.prune.operations import Floats, Multilinear, product_model

TRIALS = 2
"""Smaller nets with random numbers of channels that a model must tell the operations of."""


def operation_model(net: nn.Module, groups: Sequence[ChannelGroup], image_shape: tuple[int, int, int]) -> Multilinear:
    """Model the MACs of ``net`` for one image of C×H×W.

    Raises BudgetError, naming the operator, where they cannot be counted or do not follow from how many channels the
    groups keep.
    """
    found = _unrepeated(products(net, image_shape))
    model = product_model(net, groups, found)
    try:
        # The model is believed only where a net that really is smaller costs what it says.
        trials = [(counts, _smaller(net, groups, image_shape, counts)) for counts in random_counts(groups)]
    except (RuntimeError, IndexError, TypeError):
        return model  # whether the net can be made smaller at all is not for a model to say
    if (wrong := _wrong(model, found, trials)).any():
        # Probing removes one channel per group, a pass each; only products that the weights do not explain pay for
        # that.
        model = _probed(model, found, wrong, net, groups, image_shape)
        if (wrong := _wrong(model, found, trials)).any():
            largest = max((product for product, bad in zip(found, wrong, strict=True) if bad), key=lambda p: p.macs)
            raise BudgetError(
                f"the operations of this {kind_of(net)} do not follow from its channel counts: those of a "
                f"'{largest.operator}' in {as_named(largest.layer)} ({largest.macs:,} MACs) do not, "
                "so no budget can be kept by removing channels; `prune: weights` removes none"
            )
    return model


def random_counts(groups: Sequence[ChannelGroup]) -> list[npt.NDArray[np.int64]]:
    """Return a few random choices of how many channels each group keeps, the same ones every time."""
    # Drawn from a fixed key: a net must not be refused in one process and accepted in another.
    draws = Draws(key("costs"), list(range(TRIALS))).uniform(0, len(groups))
    return [
        # At least one channel, and never more than the group has, as shares lie below 1.
        np.array([1 + int(share * group.size) for share, group in zip(draw, groups, strict=True)])
        for draw in draws
    ]


def smaller_net(net: nn.Module, groups: Sequence[ChannelGroup], counts: npt.NDArray[np.int64]) -> nn.Module:
    """Return ``net`` with the first ``counts`` channels of each group."""
    return compact_net(net, groups, {g.name: torch.arange(int(n)) for g, n in zip(groups, counts, strict=True)})


def _unrepeated(found: Sequence[Product]) -> list[Product]:
    return [product for product in found if not product.again]


def _smaller(
    net: nn.Module, groups: Sequence[ChannelGroup], image_shape: tuple[int, int, int], counts: npt.NDArray[np.int64]
) -> list[Product]:
    """Count the products of a smaller net, of shapes alone if it goes without values."""
    try:
        # Counts need shapes alone; a copy of a large net's weights for each trial would only take memory and time.
        return _unrepeated(products(smaller_net(without_values(net), groups, counts), image_shape))
    except (RuntimeError, IndexError, TypeError):
        return _unrepeated(products(smaller_net(net, groups, counts), image_shape))


def _wrong(
    model: Multilinear, found: Sequence[Product], trials: Sequence[tuple[npt.NDArray[np.int64], list[Product]]]
) -> npt.NDArray[np.bool_]:
    """Say which products cost otherwise in the smaller nets than ``model`` tells."""
    wrong = np.zeros(len(found), dtype=bool)
    for counts, smaller in trials:
        # A forward pass that branches on a channel count runs other operators, and no product has its partner any more.
        if len(smaller) != len(found):
            return np.ones(len(found), dtype=bool)
        told = np.rint(model.terms(counts.astype(np.float64)))
        wrong |= told != np.array([product.macs for product in smaller])
    return wrong


def _probed(
    model: Multilinear,
    found: Sequence[Product],
    wrong: npt.NDArray[np.bool_],
    net: nn.Module,
    groups: Sequence[ChannelGroup],
    image_shape: tuple[int, int, int],
) -> Multilinear:
    """Return ``model`` in which the ``wrong`` products have each of their sizes follow the groups on its own."""
    factors = max(len(model.constant), *(len(product.sizes) for product in found))
    constant = np.ones((factors, len(found)))
    slope = np.zeros((factors, len(found), len(groups)))
    constant[: len(model.constant)], slope[: len(model.slope)] = model.constant, model.slope
    dense, everything = _table(found, factors), np.array([group.size for group in groups])
    constant[:, wrong], slope[:, wrong] = dense[:, wrong], 0
    for column, group in enumerate(groups):
        one_less = everything - np.eye(len(groups), dtype=np.int64)[column]
        if group.size > 1 and len(smaller := _smaller(net, groups, image_shape, one_less)) == len(found):
            lost = dense - _table(smaller, factors)
            slope[:, wrong, column] = lost[:, wrong]
            # Makes the dense net cost again what was counted of it.
            constant[:, wrong] -= group.size * lost[:, wrong]
    return Multilinear(np.where(wrong, 1.0, model.scale), constant, slope)


def _table(found: Sequence[Product], factors: int) -> Floats:
    """Return the sizes of all products, a row for each factor, with 1 where a product has fewer."""
    return np.array([(*product.sizes, *(1,) * (factors - len(product.sizes))) for product in found], dtype=np.float64).T
