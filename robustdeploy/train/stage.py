"""The training stages: the net under its budget (``train``) and the dense net it is compared with (``dense``)."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from robustdeploy.core.amount import absolute
from robustdeploy.core.files import atomic_write_bytes
from robustdeploy.core.manifest import Manifest
from robustdeploy.core.recipe import Budget, Recipe
from robustdeploy.core.registry import PRUNERS, TASKS
from robustdeploy.core.stage import Stage
from robustdeploy.cost.flop_counter import macs as flop_counter_macs
from robustdeploy.cost.memory import peak_bytes
from robustdeploy.cost.module import layer_macs, macs, params
from robustdeploy.data.load import Loaded
from robustdeploy.errors import BudgetError, TrainingError, UsageError
from robustdeploy.nets.build import build_net
from robustdeploy.nets.normalised import Normalised
from robustdeploy.nets.size import module_sizes
from robustdeploy.nets.store import NetInfo, dense_net, save_net
from robustdeploy.prune.compact import Proof
from robustdeploy.prune.protocol import Pruning
from robustdeploy.train import ranks
from robustdeploy.train.loop import Progress, Trained, fit
from robustdeploy.train.plan import Plan

HELD_OUT = 256
"""Validation images kept with the net, for proofs, parity and a board's self-check."""
_DENSE = {"ops": "dense_macs", "params": "dense_params", "memory": "dense_memory_bytes"}
"""The fact that each limit of a budget may be a fraction of; without ``dense_`` it is that of the compact net."""


def device_from(name: str) -> torch.device:
    """Return the torch device that ``train.device`` names; ``auto`` takes CUDA when it is there.

    Of several processes on one machine each takes a GPU of its own.
    """
    name = ranks.local_device(name)
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
    if recipe.budget.amounts:
        pruner: Any = PRUNERS.build(recipe.prune.name, recipe.prune.options)
        pruner.begin(net, data.image_shape, recipe.budget)


def train_dense(recipe: Recipe, data: Loaded, stage: Stage, progress: Progress) -> Manifest:
    """Train the dense net on the recipe's schedule and seal it."""
    folder = stage.begin()
    net, info = _fresh_net(recipe, data)
    facts = {**_dense_costs(net, data), "data": data.facts()}
    ranks.announce("dense")
    trained = fit(net, None, _plan(recipe, data, net, stage), folder, progress)
    return _seal(stage, data, trained, info, facts)


def train_pruned(recipe: Recipe, data: Loaded, stage: Stage, progress: Progress) -> Manifest:
    """Train under masks until the budget is met, compact the net, prove that it is the same one, and seal it.

    Without a budget the net stays dense. Raises BudgetError, before training, when the budget is out of reach.
    """
    folder = stage.begin()
    net, info = _fresh_net(recipe, data)
    plan = _plan(recipe, data, net, stage)
    dense = {**_dense_costs(net, data), "data": data.facts()}
    ranks.announce("train")
    if not recipe.budget.amounts:
        trained = fit(net, None, plan, folder, progress)
        return _seal(
            stage, data, trained, info, {**dense, **_costs(net, data), **_targets(recipe.budget, dense), "channels": []}
        )
    pruner: Any = PRUNERS.build(recipe.prune.name, recipe.prune.options)
    pruning: Pruning = pruner.begin(net, data.image_shape, recipe.budget)
    trained = fit(net, pruning, plan, folder, progress)
    compact = cast(Normalised, trained.net)
    atomic_write_bytes(folder / "masks.safetensors", _mask_file(pruning))
    costs = _costs(compact, data)
    _check_budget(pruning, recipe.budget, dense, costs)
    facts = {
        **dense,
        **costs,
        **_targets(recipe.budget, dense),
        "counts": _counts(pruning, compact, data),
        "proof": asdict(cast(Proof, trained.proof)),
        "channels": _channels(info, compact),
    }
    return _seal(stage, data, trained, info, facts, ["masks.safetensors"])


def follow(recipe: Recipe, data: Loaded) -> None:
    """Take part in the trainings that rank 0 leads, until it lets go. Nothing is written."""
    while (work := ranks.announced()) != ranks.DONE:
        net, _ = _fresh_net(recipe, data)
        pruning = None
        if work == "train" and recipe.budget.amounts:
            pruner: Any = PRUNERS.build(recipe.prune.name, recipe.prune.options)
            pruning = pruner.begin(net, data.image_shape, recipe.budget)
        fit(net, pruning, _plan(recipe, data, net), Path(), lambda step, steps, numbers: None)


def _fresh_net(recipe: Recipe, data: Loaded) -> tuple[Normalised, NetInfo]:
    """Build the dense net with weights that depend on the seed alone."""
    device = device_from(recipe.train.device)
    info = NetInfo(net=recipe.net, classes=data.classes, image_shape=data.image_shape, mean=data.mean, std=data.std)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        net = build_net(recipe.net, len(data.classes), data.image_shape, data.mean, data.std)
    return net.to(device), info


def _plan(recipe: Recipe, data: Loaded, net: nn.Module, stage: Stage | None = None) -> Plan:
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
        training=f"{stage.fingerprint}-{recipe.seed}" if stage else "",
    )


def _counts(pruning: Pruning, compact: nn.Module, data: Loaded) -> dict[str, int]:
    """Count the operations three ways; the ONNX file adds a fourth. They must agree."""
    counts = {
        "masks": round(pruning.costs()["ops"]),
        "module": macs(compact, data.image_shape),
        "flop_counter": flop_counter_macs(compact, data.image_shape),
    }
    if len(set(counts.values())) != 1:
        raise TrainingError(f"the operations were counted differently, which must not be: {counts}")
    return counts


def _targets(budget: Budget, dense: Mapping[str, Any]) -> dict[str, float]:
    """Return each limit as a fraction of the dense net's cost; without a limit that is all of it."""
    given = budget.amounts
    return {
        f"{name}_target": absolute(given[name], dense[fact]) / dense[fact] if name in given else 1.0
        for name, fact in _DENSE.items()
    }


def _check_budget(pruning: Pruning, budget: Budget, dense: Mapping[str, Any], costs: Mapping[str, Any]) -> None:
    """Hold what was counted on the compact net against the masks' own count and against every limit."""
    told, used = pruning.costs(), {}
    for name, amount in budget.amounts.items():
        limit = absolute(amount, dense[_DENSE[name]])
        found = costs[_DENSE[name].removeprefix("dense_")] if pruning.removes_channels else told[name]
        if found > limit:
            raise TrainingError(f"the compact net costs {found:,} by budget.{name}, above the limit of {limit:,.0f}")
        used[name] = told[name] / limit, dense[_DENSE[name]] / limit
    most, most_dense = (max(pair[i] for pair in used.values()) for i in (0, 1))
    if not (0.97 < most <= 1 or most_dense <= 1):
        raise TrainingError(f"the compact net uses {most:.4f} of its budget, outside (0.97, 1]")


def _costs(net: nn.Module, data: Loaded) -> dict[str, Any]:
    return {
        "macs": macs(net, data.image_shape),
        "params": params(net),
        "memory_bytes": _memory(net, data),
        "layer_macs": layer_macs(net, data.image_shape),
    }


def _dense_costs(net: nn.Module, data: Loaded) -> dict[str, Any]:
    costs = _costs(net, data)
    return {fact: costs[fact.removeprefix("dense_")] for fact in _DENSE.values()}


def _memory(net: nn.Module, data: Loaded) -> int | None:
    """Return the peak activation memory, or nothing for a net that cannot be traced."""
    try:
        return peak_bytes(net, data.image_shape)
    except BudgetError:
        return None


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
    stage: Stage,
    data: Loaded,
    trained: Trained,
    info: NetInfo,
    facts: Mapping[str, Any],
    more: list[str] | None = None,
) -> Manifest:
    """Write the delivered net, and the best and the last epoch's where they differ, and seal the stage."""
    names = ["model.safetensors", "net.json", "metrics.jsonl", "held_out.npz", *(more or [])]
    save_net(stage.folder, cast(Normalised, trained.net.cpu()), info)
    if trained.best is not trained.last:
        for place, net in (("best", trained.best), ("last", trained.last)):
            (stage.folder / place).mkdir(exist_ok=True)
            save_net(stage.folder / place, cast(Normalised, net.cpu()), info)
            names += [f"{place}/model.safetensors", f"{place}/net.json"]
    atomic_write_bytes(stage.folder / "held_out.npz", _held_out(data))
    return stage.seal([Path(stage.folder / name) for name in names], {**facts, **_training_facts(trained)})


def _training_facts(trained: Trained) -> dict[str, Any]:
    """Say which epoch is delivered, and what happened on the way."""
    last = trained.records[-1]["epoch"]
    delivered = last if trained.net is trained.last else trained.best_epoch
    epochs = {"delivered": delivered, "best": trained.best_epoch, "last": last}
    return {"epochs": epochs, "events": trained.events, "precision": trained.precision, "processes": ranks.world()}
