"""Facts: what is said of a trained net in its seal, and the real images that are kept beside it."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto
from torch import nn

from robustdeploy.core.amount import absolute
from robustdeploy.core.files import canonical_json, temporary_folder
from robustdeploy.core.plain import in_words
from robustdeploy.core.recipe import Budget, Choice, LatencyLimit
from robustdeploy.core.records import NetRecord
from robustdeploy.cost.memory import peak_bytes
from robustdeploy.cost.module import layer_macs, macs, params, repeated_macs
from robustdeploy.cost.onnx_graph import macs as onnx_macs
from robustdeploy.cost.onnx_graph import read_model
from robustdeploy.data.load import Loaded
from robustdeploy.data.prints import prints_of
from robustdeploy.errors import ArtifactError, BudgetError
from robustdeploy.nets.graph import OURS, GraphNet
from robustdeploy.nets.size import module_sizes
from robustdeploy.nets.store import NetInfo, dense_net
from robustdeploy.prune.latency import LatencyGoal
from robustdeploy.prune.protocol import Pruning

PRINTS_FILE = "prints.npz"
HELD_OUT = 256
"""Validation images kept with the net, for proofs, parity and a board's self-check."""
DENSE = {"ops": "dense_macs", "params": "dense_params", "memory": "dense_memory_bytes"}
"""The fact that each limit of a budget may be a fraction of; without ``dense_`` it is that of the compact net."""

_SIZES = (TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING)
"""Types of constants that are shapes and places, not weights."""

ImageShape = tuple[int, int, int]
"""C, H, W."""


def dense_cost_facts(net: nn.Module, image_shape: ImageShape) -> dict[str, Any]:
    """Return the costs of the dense net, which those of the compact one are compared with."""
    costs = cost_facts(net, image_shape)
    return {fact: costs[fact.removeprefix("dense_")] for fact in DENSE.values()}


def cost_facts(net: nn.Module, image_shape: ImageShape) -> dict[str, Any]:
    """Return what one image costs, and each layer's share of the operations.

    MACs are those of the graph that an export gives, which computes once what torch computes twice (``repeated_macs``).
    """
    return {
        "macs": macs(net, image_shape),
        "repeated_macs": repeated_macs(net, image_shape),
        "params": params(net),
        "memory_bytes": _memory(net, image_shape),
        "layer_macs": layer_macs(net, image_shape),
    }


def graph_facts(graph: GraphNet) -> dict[str, Any]:
    """Return what a net that is an ONNX file costs for one image; it is dense, as nothing is known of another form."""
    why, counted = "", 0
    with temporary_folder() as folder:
        path = folder / "model.onnx"
        path.write_bytes(graph.content)
        try:
            counted = onnx_macs(path)
        except ArtifactError as problem:
            why = str(problem).replace(f"{path}: ", "")
        weights = [each for each in read_model(path).graph.initializer if each.data_type not in _SIZES]
    held = sum(math.prod(each.dims) for each in weights if not each.name.startswith(OURS))
    return {
        "macs": counted,
        "params": held,
        "memory_bytes": None,
        "dense_macs": counted,
        "dense_params": held,
        "dense_memory_bytes": None,
        "counts": {"onnx": counted},
        "uncounted": why,
    }


def preprocess_facts(steps: Sequence[Choice]) -> dict[str, Any]:
    """Return what a report has to say of the images, where steps stand in front of the net."""
    return {"preprocess": [in_words(each) for each in steps]} if steps else {}


def net_record(facts: Mapping[str, Any]) -> NetRecord:
    """Return what was found of a net as its record; ``facts`` are by the record's own names."""
    # Through JSON, so that what is in memory is bit for bit what a later command will read from the file.
    return NetRecord.model_validate_json(canonical_json(dict(facts)))


def _memory(net: nn.Module, image_shape: ImageShape) -> int | None:
    """Return the peak activation memory, or nothing for a net that cannot be traced."""
    try:
        return peak_bytes(net, image_shape)
    # Only a limit on memory needs this figure; without one a net that cannot be traced is trained all the same.
    except BudgetError:
        return None


def target_facts(budget: Budget, dense: Mapping[str, Any]) -> dict[str, float]:
    """Return each limit as a fraction of the dense net's cost; without a limit that is all of it."""
    given = budget.amounts
    return {
        f"{name}_target": absolute(given[name], dense[fact]) / dense[fact] if name in given and dense[fact] else 1.0
        for name, fact in DENSE.items()
    }


def latency_facts(limit: LatencyLimit, pruning: Pruning, timing: LatencyGoal) -> dict[str, Any]:
    """Return how the limit on latency was kept: what was foretold, and what was measured before the masks froze."""
    dense_us = timing.profile.dense_us
    trials: list[tuple[float, float]] = getattr(pruning, "latency_trials", list)()
    return {
        "target": limit.target,
        "limit": timing.limit_us / dense_us,
        "dense_us": dense_us,
        "foretold": pruning.costs()["latency"] / dense_us,
        "trials": [{"foretold": foretold, "measured": measured} for foretold, measured in trials],
    }


def channel_facts(info: NetInfo, compact: nn.Module) -> list[dict[str, Any]]:
    """Output channels kept per convolution and linear layer."""
    dense, small = dense_net(info), module_sizes(compact)
    counted = layer_macs(dense, info.image_shape)
    return [
        {"layer": name.removeprefix("net."), "kept": small[name].outputs, "dense": size.outputs}
        for name, size in module_sizes(dense).items()
        # Normalisations and pads have sizes too, but follow the layer before them.
        if name in counted
    ]


def prints_file(data: Loaded) -> bytes:
    """Return the prints of all training and validation images, by which an evaluation tells copies of them."""
    buffer = io.BytesIO()
    prints = prints_of(data.train, data.validation)
    np.savez_compressed(buffer, hashes=prints["hashes"], thumbnails=prints["thumbnails"])
    return buffer.getvalue()


def held_out_file(data: Loaded) -> bytes:
    """Return the first validation images, which later stages use where they need real images but no test image."""
    buffer = io.BytesIO()
    # Never test images: they may be looked at once, by the evaluation.
    images, labels = data.validation.images[:HELD_OUT], data.validation.labels[:HELD_OUT]
    np.savez_compressed(buffer, images=images.numpy(), labels=labels.numpy())
    return buffer.getvalue()
