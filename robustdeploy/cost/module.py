"""Count the operations of a torch net: one MAC per multiplication in a product that adds up, for one image."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from robustdeploy.cost.memory import without_values
from robustdeploy.cost.operators import Sizes
from robustdeploy.cost.products import Product, as_named, watched
from robustdeploy.errors import BudgetError

Found = TypeVar("Found")
_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)


def products(net: nn.Module, image_shape: tuple[int, int, int]) -> tuple[Product, ...]:
    """Return every product that ``net`` computes for one more image of C×H×W in eval mode, in order.

    What is computed once for all images, from parameters alone, is none of them: a runtime folds it into a constant.
    Only shapes are computed where that is possible. Raises BudgetError, naming the operator, at one that cannot be
    counted, and for a net that works on several images together.
    """
    # Two and three, not one and two: many operators treat a batch of one otherwise, as by squeezing it away.
    two, three = (on_zeros(net, (count, *image_shape), watched) for count in (2, 3))
    if [product.operator for product in two] != [product.operator for product in three]:
        raise BudgetError(
            "the operations of this net cannot be counted: it computes other products for three "
            "images than for two; a net must treat each image alike"
        )
    return tuple(
        replace(double, sizes=_for_one(double, triple))
        for double, triple in zip(two, three, strict=True)
        if double.macs != triple.macs
    )


def _for_one(double: Product, triple: Product) -> Sizes:
    """Return a product's sizes for one image from those for two and for three."""
    # Attention over the batch grows with its square, and a count for one image would depend on its neighbours.
    if 3 * double.macs != 2 * triple.macs:
        raise BudgetError(
            f"the operations of this net cannot be counted for one image: a '{double.operator}' in "
            f"{as_named(double.layer)} takes {double.macs:,} MACs for two images and {triple.macs:,} for "
            "three; a net must treat each image alike"
        )
    # The size that grows is the batch's; its growth by one image is what one image takes.
    return tuple(a if a == b else b - a for a, b in zip(double.sizes, triple.sizes, strict=True))


def layer_macs(net: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, int]:
    """Return the MACs of ``net`` for one image of C×H×W by the name of the module whose weights they are by.

    Products of two computed tensors (attention) are under the module that computes them. A layer that runs twice counts
    twice, unless its input is the same: an exporter joins what is equal. A convolution or linear layer that no image
    passes has 0. What cannot be counted is a BudgetError, as for ``products``.
    """
    counts = Counter({name: 0 for name, module in net.named_modules() if isinstance(module, _LAYERS)})
    for product in products(net, image_shape):
        counts[product.layer] += 0 if product.again else product.macs
    return dict(counts)


def weight_macs(net: nn.Module, image_shape: tuple[int, int, int]) -> Counter[str]:
    """Return the MACs of ``net`` for one image of C×H×W by the name of the parameter or buffer that they are by."""
    counts: Counter[str] = Counter()
    for product in products(net, image_shape):
        if product.operand is not None and not product.again:
            counts[product.operand.name] += product.macs
    return counts


def macs(net: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Return the MACs of the whole net for one image of C×H×W; what it computes twice counts once."""
    return sum(product.macs for product in products(net, image_shape) if not product.again)


def repeated_macs(net: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Return how many MACs ``macs`` leaves out, as torch computes them again and an exported graph does not."""
    return sum(product.macs for product in products(net, image_shape) if product.again)


def params(net: nn.Module) -> int:
    """Return how many parameters ``net`` has; buffers such as running means are none."""
    return sum(parameter.numel() for parameter in net.parameters())


def copied(net: nn.Module, instead: Mapping[Tensor | nn.Module, Tensor | nn.Module] | None = None) -> nn.Module:
    """Return a deep copy of ``net``, of one with the old weight and spectral normalisation too.

    Those keep the weight that the last pass computed, with its graph, which torch refuses to copy. The copy has
    ``instead[part]`` in place of each such part, wherever ``net`` refers to it; the part itself is not copied.
    """
    held: dict[int, Any] = {
        id(value): value.detach().clone()
        for module in net.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(net, held | {id(part): other for part, other in (instead or {}).items()})


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


def on_zeros(net: nn.Module, shape: tuple[int, ...], run: Callable[[nn.Module, Tensor], Found]) -> Found:
    """Return what ``run`` finds of ``net`` on black images of ``shape`` in eval mode.

    It is given shapes alone, which takes no time, and the net with its values only if it does not go without.
    """
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            blank = without_values(net).eval().requires_grad_(False).to("meta")
            with torch.device("meta"):
                return run(blank, torch.empty(shape))
        except BudgetError:
            raise
        except Exception:  # foreign code may raise anything
            # A net may look at values, which meta tensors have none of; it then runs as it is, on its own device.
            like = next(net.parameters(), torch.zeros(()))
            with evaluating(net):
                return run(net, torch.zeros(shape, device=like.device, dtype=like.dtype))
