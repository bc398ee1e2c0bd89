"""Count the operations of a torch net a second way: half the floating point operations that torch dispatches."""

from __future__ import annotations

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from robustdeploy.cost.module import run_on_zeros


def macs(net: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Return the MACs of ``net`` for one image of C×H×W, as torch's own counter sees them (two operations each).

    It watches what is computed, not which layers there are, so it also sees products outside of layers (attention).
    """
    counter = FlopCounterMode(display=False)
    with counter:
        run_on_zeros(net, image_shape)
    return int(counter.get_total_flops()) // 2
