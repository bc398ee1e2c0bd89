"""Count what a net with zeros among its weights costs beside its zeros; of the weights themselves, not of any mask.

A runtime for dense nets multiplies by a zero as by any other number. These counts say what is left to a runtime that
skips zeros, and how many numbers a store that leaves them out must hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
import torch
from torch import Tensor, nn

from robustdeploy.cost.module import params, products
from robustdeploy.cost.onnx_graph import all_graphs, product_macs
from robustdeploy.errors import ArtifactError

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
"""Layers whose weights take part in as many multiplications each."""
PATTERNED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Those whose weights lie as outputs × inputs × positions."""
_WEIGHTS = {**dict.fromkeys(("Conv", "ConvTranspose"), (1,)), **dict.fromkeys(("MatMul", "Gemm", "Einsum"), (1, 0))}
"""Inputs of an operator that may hold its weights."""
_RECURRENT = ("LSTM", "GRU", "RNN")
"""Operators with two weights, at places 1 and 2, each of which takes part in every step."""


def nonzero_layer_macs(net: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, int]:
    """Return ``cost.module.layer_macs`` less the multiplications by weights that are 0, for one image of C×H×W.

    A product of two computed tensors, or by weights that are computed from other parameters, counts in full.
    """
    held = {**dict(net.named_parameters(remove_duplicate=False)), **dict(net.named_buffers(remove_duplicate=False))}
    counts = Counter({name: 0 for name, module in net.named_modules() if isinstance(module, LAYERS)})
    for product in products(net, image_shape):
        if product.again:
            continue
        weights = None if product.operand is None else product.operand.of(held[product.operand.name].detach())
        # A fraction, since a product's MACs are an exact multiple of its weights and a float might lose one.
        used = Fraction(1) if weights is None else Fraction(int(torch.count_nonzero(weights)), weights.numel())
        counts[product.layer] += int(product.macs * used)
    return dict(counts)


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
    counted = product_macs(path)
    try:
        # Safe here with its external data: counting has refused files that take values from elsewhere.
        model = onnx.inliner.inline_local_functions(onnx.load(path))
        graphs = list(all_graphs(model.graph))
        stored = [tensor for graph in graphs for tensor in graph.initializer]
        constants = {tensor.name: onnx.numpy_helper.to_array(tensor, str(path.parent)) for tensor in stored}
    except (OSError, ValueError, onnx.checker.ValidationError) as problem:
        raise ArtifactError(f"{path}: its weights cannot be read: {problem}") from problem
    shares = {node.output[0]: _nonzero_share(node, constants) for graph in graphs for node in graph.node}
    return sum(int(macs * shares[name.rpartition("/")[2]]) for name, macs in counted.items())


def _nonzero_share(node: onnx.NodeProto, constants: Mapping[str, npt.NDArray[Any]]) -> Fraction:
    """Return which share of a node's multiplications is by constants other than 0."""
    if node.op_type in _RECURRENT:
        weights = [constants[name] for name in node.input[1:3] if name in constants]
    elif node.op_type == "Einsum" and len(node.input) != 2:
        weights = []
    else:
        weights = [constants[node.input[at]] for at in _WEIGHTS.get(node.op_type, ()) if node.input[at] in constants][
            :1
        ]
    size = sum(each.size for each in weights)
    return Fraction(sum(int(np.count_nonzero(each)) for each in weights), size) if size else Fraction(1)
