"""Count the operations of a torch net a second way: half the floating point operations that torch's own counter finds.

It watches torch's operators too, but has formulas of its own for most of them, and knows nothing of layers or repeats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from robustdeploy.cost.module import on_zeros
from robustdeploy.cost.operators import PRODUCTS
from robustdeploy.cost.products import unfused

_WITHOUT_FORMULA = ("mv", "dot", "vdot", "_int_mm", "addbmm", "addmv", "_addmm_activation", "_trilinear")
"""Products that torch's counter passes over."""


def macs(net: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Return the MACs of ``net`` for one more image of C×H×W as torch computes them, two operations each.

    What is computed twice counts twice; fused attention and recurrent cells are taken apart.
    """
    # The difference of two batches leaves out what is computed once for all images, and so counts one image alone.
    two, three = (on_zeros(net, (count, *image_shape), _flops) for count in (2, 3))
    return (three - two) // 2


def _flops(net: nn.Module, images: Tensor) -> int:
    more = {getattr(torch.ops.aten, name): _formula(name) for name in _WITHOUT_FORMULA}
    counter = FlopCounterMode(display=False, custom_mapping=more)
    with unfused(), counter:
        net(images)
    return int(counter.get_total_flops())


def _formula(name: str) -> Callable[..., int]:
    """Return our own formula as torch's counter calls one: with the tensors themselves, and twice the MACs."""

    def flops(*given: Any, out_val: Tensor, **named: Any) -> int:
        return 2 * sum(math.prod(sizes) for sizes in PRODUCTS[name].sizes(given, out_val))

    # torch's counter gives a formula shapes only, unless this mark asks for the tensors; our formulas read the output's
    # too.
    flops._get_raw = True  # type: ignore[attr-defined]
    return flops
