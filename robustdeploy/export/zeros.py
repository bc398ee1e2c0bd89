"""Zeros: what a net with masked weights costs on a runtime that multiplies by zero as by any other number."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from robustdeploy.core.records import Zeros
from robustdeploy.cost.onnx_graph import macs
from robustdeploy.cost.sparse import nonzero_params, onnx_nonzero_macs, patterned_layers


def find_zeros(net: nn.Module, path: Path) -> Zeros | None:
    """Count the zeros of ``net`` and of the ONNX file made of it; None where no weight of the file is 0."""
    counted, nonzero = macs(path), onnx_nonzero_macs(path)
    if nonzero == counted:
        return None
    return Zeros(
        macs=counted, nonzero_macs=nonzero, nonzero_params=nonzero_params(net), two_of_four=patterned_layers(net)
    )
