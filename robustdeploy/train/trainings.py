"""The training stages: the net under its budget (``train``) and the dense net it is compared with (``dense``)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import nn

from robustdeploy.core.amount import absolute
from robustdeploy.core.files import atomic_write_bytes, make_folder
from robustdeploy.core.recipe import Budget, Recipe
from robustdeploy.core.records import NetRecord
from robustdeploy.core.room import available_bytes, check_room
from robustdeploy.cost.codes import coded
from robustdeploy.cost.flop_counter import macs as flop_counter_macs
from robustdeploy.cost.memory import images_at_once, training_bytes
from robustdeploy.cost.module import macs, repeated_macs
from robustdeploy.cost.sparse import nonzero_macs
from robustdeploy.data.find import find_source
from robustdeploy.data.images import pixels
from robustdeploy.data.load import Loaded
from robustdeploy.engine.stage import Work
from robustdeploy.errors import TrainingError
from robustdeploy.nets.build import build_net
from robustdeploy.nets.normalised import Normalised
from robustdeploy.nets.preprocess.steps import prepared_statistics
from robustdeploy.nets.steady import CROWD, check_steady
from robustdeploy.nets.store import NetInfo, save_net
from robustdeploy.prune.compact import Proof
from robustdeploy.prune.groups import own_names
from robustdeploy.prune.latency import LatencyGoal
from robustdeploy.prune.protocol import Pruning, own_state
from robustdeploy.train import ranks
from robustdeploy.train.facts import (
    DENSE,
    PRINTS_FILE,
    channel_facts,
    cost_facts,
    dense_cost_facts,
    held_out_file,
    latency_facts,
    net_record,
    preprocess_facts,
    prints_file,
    target_facts,
)
from robustdeploy.train.first_step import check_first_step
from robustdeploy.train.loop import Progress, Trained, fit
from robustdeploy.train.notes import notes
from robustdeploy.train.setup import device_from, plan_from, pruning_from
from robustdeploy.train.start import net_info, start_facts, starting_net


def check_trainable(recipe: Recipe, data: Loaded, timing: LatencyGoal | None = None) -> list[str]:
    """Build the net; look whether it is steady and its budget can be met, before anything is written or trained.

    Returns what the user should know of the training before it begins.
    """
    plan = plan_from(recipe, data, torch.device("cpu"))
    if recipe.baseline:
        # Built for its errors alone: a fault in the dense net's phases must not wait until that net is trained.
        plan_from(recipe, data, torch.device("cpu"), pruned=False)
    net, what = starting_net(recipe, data, device_from(recipe.train.device)), f"net '{recipe.net.name}'"
    check_memory(recipe, net, data.image_shape)
    many = images_at_once(net, data.image_shape, max(CROWD, recipe.train.batch_size))
    check_steady(net, pixels(data.train.images[:many].cpu()), what)
    check_first_step(net, plan, what)
    # Last, since tracing and rehearsing a net takes longest, and masks are attached to it.
    return list(notes(net, pruning_from(recipe, data, net, timing), data.image_shape))


def check_affordable(recipe: Recipe) -> None:
    """Refuse a net or a batch size that memory cannot hold, before any image is decoded.

    A net that the training begins with, and may be smaller than the recipe's, is looked at later.
    """
    if recipe.train.start is None:
        source = find_source(recipe.data)
        # The true statistics need the images, and memory does not depend on them.
        shape, plain = source.image_shape, (0.5,) * source.image_shape[0]
        mean, std = prepared_statistics(recipe.preprocess, shape, plain, plain)
        with torch.random.fork_rng(devices=[]):
            net = build_net(recipe.net, len(source.classes), shape, mean, std, recipe.preprocess)
        check_memory(recipe, net, shape)


def check_memory(recipe: Recipe, net: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Refuse a batch size at which one step's feature maps alone are more than memory holds."""
    batch, device = recipe.train.batch_size, device_from(recipe.train.device)
    if (needed := training_bytes(net, image_shape, batch)) is None:
        return
    available = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()
    height, width = image_shape[1:]
    fits = batch if available is None else int(batch * available / needed)
    check_room(
        f"a training step on {batch} images of {height}×{width}",
        needed,
        f"set train.batch_size to {fits} or less, or a smaller data.size" if fits else "set a smaller data.size",
        available,
    )


def train_dense(recipe: Recipe, data: Loaded, work: Work, progress: Progress) -> NetRecord:
    """Train the dense net on the recipe's schedule."""
    device, info = device_from(recipe.train.device), net_info(recipe, data)
    net = starting_net(recipe, data, device)
    dense = {**dense_cost_facts(net, data.image_shape), **_data_facts(recipe, data)}
    ranks.announce("dense")
    plan = plan_from(recipe, data, device, _training(recipe, work), pruned=False)
    trained = fit(net, None, plan, work.folder, progress, work.callback, work.place)
    facts = {**dense, **_facts(data, trained), "counts": _two_counts(trained, data)}
    return _kept(work, info, data, trained, facts)


def train_pruned(
    recipe: Recipe, data: Loaded, work: Work, progress: Progress, timing: LatencyGoal | None = None
) -> NetRecord:
    """Train under masks until the budget is met, compact the net, and prove that it is the same one.

    Raises BudgetError, before training, when the budget is out of reach.
    """
    device, info = device_from(recipe.train.device), net_info(recipe, data)
    net = starting_net(recipe, data, device)
    dense = {**dense_cost_facts(net, data.image_shape), **_data_facts(recipe, data)}
    pruning = cast(Pruning, pruning_from(recipe, data, net, timing))
    ranks.announce("train")
    plan = plan_from(recipe, data, device, _training(recipe, work))
    trained = fit(net, pruning, plan, work.folder, progress, work.callback, work.place)
    facts = {**dense, **_facts(data, trained), **target_facts(recipe.budget, dense)}
    atomic_write_bytes(work.folder / "masks.safetensors", _mask_file(pruning))
    work.keep("masks.safetensors")
    _check_budget(pruning, recipe.budget, dense, facts)
    # Not part of the protocol: a pruner of single weights may have nothing to say here.
    whole: Mapping[str, str] = getattr(pruning, "whole", {})
    more: dict[str, Any] = {
        "whole": {own_names(layer): own_names(reason) for layer, reason in whole.items()},
        "counts": _counts(pruning, trained.net, data),
        "proof": asdict(cast(Proof, trained.proof)),
        "channels": channel_facts(info, trained.net),
    }
    if recipe.budget.latency is not None and timing is not None:
        more["latency"] = latency_facts(recipe.budget.latency, pruning, timing)
    if not pruning.removes_channels:
        more["nonzero_macs"] = nonzero_macs(trained.net, data.image_shape)
    if (bits := getattr(pruning, "bits", None)) is not None:
        more["codes"] = coded(trained.net, bits).model_dump(mode="json")
    return _kept(work, info, data, trained, {**facts, **more})


def follow(recipe: Recipe, data: Loaded) -> None:
    """Take part in the trainings that rank 0 leads, until it lets go. Nothing is written."""
    device = device_from(recipe.train.device)
    while (work := ranks.announced()) != ranks.DONE:
        net = starting_net(recipe, data, device)
        pruned = work == "train"
        pruning = pruning_from(recipe, data, net) if pruned else None
        # The folder is never touched: rank 0 alone reads and writes, and hands its state to the others.
        fit(net, pruning, plan_from(recipe, data, device, pruned=pruned), Path(), lambda step, steps, numbers: None)


def _training(recipe: Recipe, work: Work) -> str:
    return f"{work.mark}-{recipe.seed}"


def _data_facts(recipe: Recipe, data: Loaded) -> dict[str, Any]:
    """Return what a report says of the data; looked up before the training, since the start may be gone after it."""
    return {"data": {**data.facts(), **preprocess_facts(recipe.preprocess), **start_facts(recipe)}}


def _facts(data: Loaded, trained: Trained) -> dict[str, Any]:
    """Return what a trained net costs, and how its training went."""
    return {**cost_facts(trained.net, data.image_shape), **_training_facts(trained)}


def _two_counts(trained: Trained, data: Loaded) -> dict[str, int]:
    """Count the operations of a net without masks in two ways."""
    net, shape = trained.net, data.image_shape
    return {"module": macs(net, shape), "flop_counter": flop_counter_macs(net, shape) - repeated_macs(net, shape)}


def _counts(pruning: Pruning, compact: nn.Module, data: Loaded) -> dict[str, int]:
    """Count the operations in several ways; the ONNX file adds one more. They must agree.

    Zeros among the weights change no count of operations, so the masks' own is held against the zeros instead.
    """
    # Counts that share no code: a fault in one of them would otherwise make every budget and report wrong together.
    counts = {
        "module": macs(compact, data.image_shape),
        # Torch's own counter knows of no repeats.
        "flop_counter": flop_counter_macs(compact, data.image_shape) - repeated_macs(compact, data.image_shape),
    }
    masks = round(pruning.costs()["ops"])
    if pruning.removes_channels:
        counts = {"masks": masks, **counts}
    # Below and not unequal: a weight that is kept may have become exactly 0 by itself.
    elif masks < (nonzero := nonzero_macs(compact, data.image_shape)):
        raise TrainingError(f"the masks keep {masks:,} MACs, but {nonzero:,} are by weights other than 0")
    if len(set(counts.values())) != 1:
        raise TrainingError(f"the operations were counted differently, which must not be: {counts}")
    return counts


def _check_budget(pruning: Pruning, budget: Budget, dense: Mapping[str, Any], costs: Mapping[str, Any]) -> None:
    """Hold what was counted on the compact net against the masks' own count and against every limit.

    Channels come in few sizes, so how near to the limit they came is checked too; patterns of weights may stay below.
    """
    told, used = pruning.costs(), {}
    for name, amount in budget.amounts.items():
        limit = absolute(amount, dense[DENSE[name]])
        found = costs[DENSE[name].removeprefix("dense_")] if pruning.removes_channels else told[name]
        if found > limit:
            raise TrainingError(f"the compact net costs {found:,} by budget.{name}, above the limit of {limit:,.0f}")
        used[name] = told[name] / limit, dense[DENSE[name]] / limit
    most, most_dense = (max((pair[i] for pair in used.values()), default=1.0) for i in (0, 1))
    # Time goes in steps, between which no choice lands.
    if pruning.removes_channels and budget.latency is None and not (0.97 < most <= 1 or most_dense <= 1):
        raise TrainingError(f"the compact net uses {most:.4f} of its budget, outside (0.97, 1]")


def _mask_file(pruning: Pruning) -> bytes:
    """Return the binary masks, which are what counts, together with the values that they were rounded from."""
    kept = {f"kept.{name}": index for name, index in pruning.kept().items()}
    tensors = {**own_state(pruning), **kept}
    return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})


def _kept(work: Work, info: NetInfo, data: Loaded, trained: Trained, facts: Mapping[str, Any]) -> NetRecord:
    """Write the delivered net, and the best and the last epoch's where they differ."""
    save_net(work.folder, cast(Normalised, trained.net.cpu()), info)
    work.keep("model.safetensors", "net.json", "metrics.jsonl", "held_out.npz", PRINTS_FILE)
    for place, net in (("best", trained.best), ("last", trained.last)):
        shutil.rmtree(work.folder / place, ignore_errors=True)  # of a training that this one takes the place of
        if trained.best is not trained.last:
            make_folder(work.folder / place)
            save_net(work.folder / place, cast(Normalised, net.cpu()), info)
            work.keep(f"{place}/model.safetensors", f"{place}/net.json")
    atomic_write_bytes(work.folder / "held_out.npz", held_out_file(data))
    atomic_write_bytes(work.folder / PRINTS_FILE, prints_file(data))
    return net_record(facts)


def _training_facts(trained: Trained) -> dict[str, Any]:
    """Say which epoch is delivered, and what happened on the way."""
    last = trained.records[-1]["epoch"] if trained.records else 0
    delivered = last if trained.net is trained.last else trained.best_epoch
    epochs = {"delivered": delivered, "best": trained.best_epoch, "last": last}
    more = {"events": trained.events, "conditions": trained.conditions, "passes": asdict(trained.passes)}
    more |= {"search": trained.search} if trained.search else {}
    return {"epochs": epochs, "seconds": trained.seconds, **more}
