"""Zeros: what a net with masked weights costs on a runtime that multiplies by zero as by any other number."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from robustdeploy.core.model import Noun
from robustdeploy.cost.onnx_graph import macs
from robustdeploy.cost.sparse import nonzero_params, onnx_nonzero_macs, patterned_layers


class Zeros(Noun):
    """What of an exported net is beside its zeros."""

    macs: int
    """Of the graph, as a dense runtime executes them."""
    nonzero_macs: int
    """Those of the graph that are by weights other than 0."""
    nonzero_params: int
    """Parameters of the net beside the zeros among its layers' weights."""
    two_of_four: tuple[str, ...]
    """Layers that have at most 2 weights other than 0 among any 4 consecutive inputs."""

    @property
    def note(self) -> str:
        """What a user of the exported net must know, as one sentence."""
        text = (
            f"{1 - self.nonzero_macs / self.macs:.1%} of the {self.macs:,} MACs are by weights that are 0, but a dense "
            "runtime executes all of them: these zeros save no time and no operation there"
        )
        if not self.two_of_four:
            return text
        return (
            f"{text}. {len(self.two_of_four)} layers are 2:4 sparse, for which TensorRT has kernels that it may choose "
            "when its builder allows sparse weights; that has not been run on hardware"
        )


def find_zeros(net: nn.Module, path: Path) -> Zeros | None:
    """Count the zeros of ``net`` and of the ONNX file made of it; None where no weight of the file is 0."""
    counted, nonzero = macs(path), onnx_nonzero_macs(path)
    if nonzero == counted:
        return None
    return Zeros(
        macs=counted, nonzero_macs=nonzero, nonzero_params=nonzero_params(net), two_of_four=patterned_layers(net)
    )
