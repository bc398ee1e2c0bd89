"""Count what a net with zeros among its weights costs beside its zeros; of the weights themselves, not of any mask.

A runtime for dense nets multiplies by a zero as by any other number. These counts say what is left to a runtime that
skips zeros, and how many numbers a store that leaves them out must hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from robustdeploy.cost.module import layer_macs, params
from robustdeploy.cost.onnx_graph import node_macs
from robustdeploy.errors import ArtifactError

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
"""Layers whose weights take part in as many multiplications each."""
PATTERNED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Those whose weights lie as outputs × inputs × positions."""
_WEIGHT = {"Conv": (1,), "ConvTranspose": (1,), "MatMul": (1, 0), "Gemm": (1, 0)}
"""Inputs of an operator that may hold its weights."""


def nonzero_layer_macs(net: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, int]:
    """Return ``cost.module.layer_macs`` less the multiplications by weights that are 0, for one image of C×H×W."""
    modules = dict(net.named_modules())
    return {
        name: counted // modules[name].weight.numel() * int(torch.count_nonzero(modules[name].weight))
        for name, counted in layer_macs(net, image_shape).items()
    }


def nonzero_macs(net: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Return the MACs of the whole net for one image of C×H×W that are by weights other than 0."""
    return sum(nonzero_layer_macs(net, image_shape).values())


def nonzero_params(net: nn.Module) -> int:
    """Return how many parameters ``net`` has beside the zeros among its layers' weights.

    Biases and the parameters of normalisation all count, zero or not: a store for sparse weights holds them in full.
    """
    weights = {id(layer.weight): layer.weight for layer in net.modules() if isinstance(layer, LAYERS)}
    return params(net) - sum(int((weight == 0).sum()) for weight in weights.values())


def patterned_layers(net: nn.Module, n: int = 2, m: int = 4) -> tuple[str, ...]:
    """Return the layers that have at most ``n`` weights other than 0 among any ``m`` consecutive inputs.

    Consecutive means at one output and one filter position, the order that sparse matrix units read; a layer with a
    number of inputs that is no multiple of ``m`` has no such groups and is not among them.
    """
    layers = ((name, layer) for name, layer in net.named_modules() if isinstance(layer, PATTERNED))
    return tuple(name for name, layer in layers if _patterned(layer.weight.detach(), n, m))


def _patterned(weight: Tensor, n: int, m: int) -> bool:
    if weight.shape[1] % m:
        return False
    return bool((weight.movedim(1, -1).reshape(-1, m).count_nonzero(1) <= n).all())


def onnx_nonzero_macs(path: Path) -> int:
    """Return the MACs of an ONNX file's graph for one image that are by weights other than 0.

    Weights are what the file holds as constants; a product of two computed tensors counts in full. Raises ArtifactError
    as ``cost.onnx_graph`` does, and where the weights lie in a file that is missing.
    """
    counted = node_macs(path)
    try:
        graph = onnx.load(path).graph
        constants = {tensor.name: onnx.numpy_helper.to_array(tensor, str(path.parent)) for tensor in graph.initializer}
    except (OSError, ValueError, onnx.checker.ValidationError) as problem:
        raise ArtifactError(f"{path}: its weights cannot be read: {problem}") from problem
    return sum(_nonzero(counted[node.output[0]], node, constants) for node in _products(graph, counted))


def _products(graph: Any, counted: Mapping[str, int]) -> Iterator[Any]:
    return (node for node in graph.node if node.output[0] in counted)


def _nonzero(counted: int, node: Any, constants: Mapping[str, npt.NDArray[Any]]) -> int:
    weights = [constants[node.input[at]] for at in _WEIGHT.get(node.op_type, ()) if node.input[at] in constants]
    return counted // weights[0].size * int(np.count_nonzero(weights[0])) if weights else counted
