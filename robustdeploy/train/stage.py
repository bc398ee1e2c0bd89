"""The training stages: the net under its budget (``train``) and the dense net it is compared with (``dense``)."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from robustdeploy.attacks.fgsm import Fgsm
from robustdeploy.core.files import atomic_write_bytes
from robustdeploy.core.manifest import Manifest
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.registry import PRUNERS, TASKS
from robustdeploy.core.stage import Stage
from robustdeploy.cost.flop_counter import macs as flop_counter_macs
from robustdeploy.cost.module import layer_macs, macs, params
from robustdeploy.data.load import Loaded
from robustdeploy.data.noise import Noise
from robustdeploy.errors import TrainingError, UsageError
from robustdeploy.nets.build import build_net
from robustdeploy.nets.normalised import Normalised
from robustdeploy.nets.size import module_sizes
from robustdeploy.nets.store import NetInfo, dense_net, save_net
from robustdeploy.onboard.draws import key
from robustdeploy.prune.compact import Proof, prove_equal
from robustdeploy.prune.protocol import Pruning
from robustdeploy.train.loop import Plan, Progress, fit

HELD_OUT = 256
"""Validation images kept with the net, for proofs, parity and a board's self-check."""


def device_from(name: str) -> torch.device:
    """Return the torch device that ``train.device`` names; ``auto`` takes CUDA when it is there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as problem:
        first = str(problem).splitlines()[0]
        raise UsageError(
            f"train.device is '{name}', which torch cannot use here ({first}); say auto or cpu"
        ) from problem
    return device


def check_trainable(recipe: Recipe, data: Loaded) -> None:
    """Build the net and look whether its budget can be met, before anything is written or trained."""
    net, _ = _fresh_net(recipe, data)
    TASKS.build(recipe.train.task.name, recipe.train.task.options)
    if recipe.budget.ops is not None:
        pruner: Any = PRUNERS.build(recipe.prune.name, recipe.prune.options)
        pruner.begin(net, data.image_shape, recipe.budget.ops, recipe.budget.channel_multiple)


def train_dense(recipe: Recipe, data: Loaded, stage: Stage, progress: Progress) -> Manifest:
    """Train the dense net on the recipe's schedule and seal it."""
    folder = stage.begin()
    net, info = _fresh_net(recipe, data)
    fit(net, None, _plan(recipe, data, net, stage), folder, progress)
    facts = {"dense_macs": macs(net, data.image_shape), "dense_params": params(net), "data": data.facts()}
    return _seal(stage, data, net, info, facts)


def train_pruned(recipe: Recipe, data: Loaded, stage: Stage, progress: Progress) -> Manifest:
    """Train under masks until the budget is met, compact the net, prove that it is the same one, and seal it.

    Without a budget the net stays dense. Raises BudgetError, before training, when the budget is out of reach.
    """
    folder = stage.begin()
    net, info = _fresh_net(recipe, data)
    plan = _plan(recipe, data, net, stage)
    dense: dict[str, Any] = {
        "dense_macs": macs(net, data.image_shape),
        "dense_params": params(net),
        "data": data.facts(),
    }
    if recipe.budget.ops is None:
        fit(net, None, plan, folder, progress)
        return _seal(stage, data, net, info, {**dense, **_costs(net, data), "ops_target": 1.0, "channels": []})
    pruner: Any = PRUNERS.build(recipe.prune.name, recipe.prune.options)
    pruning: Pruning = pruner.begin(net, data.image_shape, recipe.budget.ops, recipe.budget.channel_multiple)
    fit(net, pruning, plan, folder, progress)
    compact = cast(Normalised, pruning.compact())
    proof = _prove(pruning, compact, plan)
    atomic_write_bytes(folder / "masks.safetensors", _mask_file(pruning))
    counts = _counts(pruning, compact, data, recipe.budget.ops * dense["dense_macs"])
    facts = {
        **dense,
        **_costs(compact, data),
        "ops_target": recipe.budget.ops,
        "counts": counts,
        "proof": asdict(proof),
        "channels": _channels(info, compact),
    }
    return _seal(stage, data, compact, info, facts, ["masks.safetensors"])


def _fresh_net(recipe: Recipe, data: Loaded) -> tuple[Normalised, NetInfo]:
    """Build the dense net with weights that depend on the seed alone."""
    device = device_from(recipe.train.device)
    info = NetInfo(net=recipe.net, classes=data.classes, image_shape=data.image_shape, mean=data.mean, std=data.std)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        net = build_net(recipe.net, len(data.classes), data.image_shape, data.mean, data.std)
    return net.to(device), info


def _plan(recipe: Recipe, data: Loaded, net: nn.Module, stage: Stage) -> Plan:
    device = next(net.parameters()).device
    return Plan(
        train=data.train.to(device),
        validation=data.validation.to(device),
        task=TASKS.build(recipe.train.task.name, recipe.train.task.options),
        threat=recipe.threat,
        options=recipe.train,
        seed=recipe.seed,
        shift=data.shift if recipe.data.augment else 0,
        mirror=data.mirror and recipe.data.augment,
        training=f"{stage.fingerprint}-{recipe.seed}",
    )


def _prove(pruning: Pruning, compact: nn.Module, plan: Plan) -> Proof:
    """Compare masked and compact net on held-out images, clean and adversarial.

    On the CPU, whose float32 is float32: a GPU's convolutions may round to TF32.
    """
    masked, compact = copy.deepcopy(cast(nn.Module, pruning)).cpu(), compact.cpu()
    images, labels = plan.validation.images[:HELD_OUT].cpu().float() / 255, plan.validation.labels[:HELD_OUT].cpu()
    noise = Noise(key(plan.seed, "proof"), torch.arange(len(labels)))
    return prove_equal(masked, compact, images, Fgsm()(compact, images, labels, plan.threat, noise))


def _counts(pruning: Pruning, compact: nn.Module, data: Loaded, target: float) -> dict[str, int]:
    """Count the operations three ways; the ONNX file adds a fourth. They must agree and meet the budget."""
    kept = torch.tensor([float(len(index)) for index in pruning.kept().values()], dtype=torch.float64)
    counts = {
        "masks": round(float(pruning.operations.macs_of(kept))),
        "module": macs(compact, data.image_shape),
        "flop_counter": flop_counter_macs(compact, data.image_shape),
    }
    if len(set(counts.values())) != 1:
        raise TrainingError(f"the operations were counted differently, which must not be: {counts}")
    if not 0.97 * target < counts["module"] <= target:
        raise TrainingError(f"the net has {counts['module']:,} MACs, outside (0.97, 1] of its budget {target:,.0f}")
    return counts


def _costs(net: nn.Module, data: Loaded) -> dict[str, Any]:
    return {
        "macs": macs(net, data.image_shape),
        "params": params(net),
        "layer_macs": layer_macs(net, data.image_shape),
    }


def _channels(info: NetInfo, compact: nn.Module) -> list[dict[str, Any]]:
    """Output channels kept per convolution and linear layer."""
    dense, small = dense_net(info), module_sizes(compact)
    counted = layer_macs(dense, info.image_shape)
    return [
        {"layer": name.removeprefix("net."), "kept": small[name].outputs, "dense": size.outputs}
        for name, size in module_sizes(dense).items()
        if name in counted
    ]


def _mask_file(pruning: Pruning) -> bytes:
    """Return the binary masks, which are what counts, together with the values that they were rounded from."""
    state: Mapping[str, Tensor] = cast(nn.Module, pruning).state_dict()
    own = {name: tensor for name, tensor in state.items() if not name.startswith("net.")}
    kept = {f"kept.{name}": index for name, index in pruning.kept().items()}
    return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in {**own, **kept}.items()})


def _held_out(data: Loaded) -> bytes:
    """Return the first validation images, which later stages use where they need real images but no test image."""
    buffer = io.BytesIO()
    images, labels = data.validation.images[:HELD_OUT], data.validation.labels[:HELD_OUT]
    np.savez_compressed(buffer, images=images.numpy(), labels=labels.numpy())
    return buffer.getvalue()


def _seal(
    stage: Stage, data: Loaded, net: Normalised, info: NetInfo, facts: Mapping[str, Any], more: list[str] | None = None
) -> Manifest:
    save_net(stage.folder, net.cpu(), info)
    atomic_write_bytes(stage.folder / "held_out.npz", _held_out(data))
    names = ["model.safetensors", "net.json", "metrics.jsonl", "held_out.npz", *(more or [])]
    return stage.seal([Path(stage.folder / name) for name in names], facts)
