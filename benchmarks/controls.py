"""Comparisons: nets that pruning in training is held against, trained by the same loop for as many epochs.

``scratch`` keeps the shape that the masks have found and forgets the weights: what is left of the gain when only the
architecture counts (Liu et al., "Rethinking the value of network pruning", ICLR 2019). ``one-shot`` is the usual way:
train dense for two thirds of the epochs, drop filters at once (oneshot.py), fine-tune for the last third.

The fine-tuning runs one more cycle at the recipe's own peak learning rate: repeating the schedule was found to be as
good as or better than a small constant rate (Renda, Frankle and Carbin, ICLR 2020), and it leaves no knob whose tuning
would favour one side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from oneshot import pruned_once
from rows import Row
from torch import nn

from robustdeploy.core.callback import Callback
from robustdeploy.core.files import sha256_of_file
from robustdeploy.core.interrupts import catch_signals
from robustdeploy.core.recipe import Recipe
from robustdeploy.cost.module import macs, params
from robustdeploy.data.load import Loaded, load_data
from robustdeploy.engine.manifest import Manifest
from robustdeploy.engine.run import Run, training_content
from robustdeploy.engine.seal import Slot
from robustdeploy.errors import ArtifactError, UsageError
from robustdeploy.nets.normalised import Normalised
from robustdeploy.nets.residual import init_convolutions
from robustdeploy.nets.size import resize_modules
from robustdeploy.nets.store import NET_FILE, WEIGHTS_FILE, NetInfo, dense_net, load_info, load_net, save_net
from robustdeploy.train.loop import Trained, fit
from robustdeploy.train.setup import device_from, plan_from
from robustdeploy.train.start import starting_net


@dataclass(frozen=True)
class Made:
    """The net that a comparison ends with, and how."""

    net: nn.Module
    phases: Mapping[str, int]
    """Epochs of each training on the way, by name."""
    events: Sequence[Mapping[str, Any]]
    """What the sentinel had to do in any of them."""


@dataclass(frozen=True)
class Work:
    """What a comparison is trained from and where."""

    recipe: Recipe
    data: Loaded
    device: torch.device
    stage: Slot
    pattern: Path
    """Folder of the net that was pruned in training."""
    callback: Callback

    def fitted(self, net: nn.Module, epochs: int, name: str, draw: int = 0) -> Trained:
        """Train ``net`` as the recipe says, for ``epochs``; a repeated call resumes or finds it done.

        With another ``draw``, images come in another order and are augmented and attacked from other random numbers.
        """
        train = self.recipe.train.model_copy(update={"epochs": epochs})
        recipe = self.recipe.model_copy(update={"train": train})
        plan = plan_from(recipe, self.data, self.device, f"{self.stage.fingerprint}-{self.recipe.seed}-{name}")
        plan = replace(plan, seed=plan.seed + draw)

        def progress(step: int, steps: int, numbers: Mapping[str, float]) -> None:
            self.callback.progress(f"training {name}", step, steps, **numbers)

        return fit(net, None, plan, self.stage.folder / name, progress)


def trained(row: Row, recipe: Recipe, pattern: Path, runs: Path, callback: Callback) -> Run:
    """Train the net of ``row`` in a run of its own, resumable and sealed as those of the pipeline are."""
    if not (pattern / WEIGHTS_FILE).is_file():
        raise UsageError(f"{row.name} takes over from {pattern.name}, which is not there yet: train that row first")
    data = load_data(recipe.data, lambda done, total: callback.progress("reading images", done, total))
    with _locked(Run.for_recipe(runs, recipe, row.name)) as run:
        inputs = {"images": data.digest, "pattern": sha256_of_file(pattern / WEIGHTS_FILE)}
        parts = training_content(recipe)
        parameters = {part: parts[part] for part in ("data", "net", "threat", "train")}
        stage = run.slot(row.method, run.net_place, inputs, parameters)
        if stage.sealed() is not None:
            callback.say(f"{row.name}: done already and unchanged; skipped")
            return run
        stage.begin()
        work = Work(recipe, data, device_from(recipe.train.device), stage, pattern, callback)
        _sealed(work, _MAKERS[row.method](work))
    return run


@contextmanager
def _locked(run: Run) -> Iterator[Run]:
    with catch_signals(), run.lock():
        yield run


def _scratch(work: Work) -> Made:
    """Train the pattern's shape from fresh weights."""
    info = load_info(work.pattern)
    net = dense_net(info)
    resize_modules(net, info.modules)
    epochs = work.recipe.train.epochs
    trained = work.fitted(renewed(net, work.recipe.seed).to(work.device), epochs, "scratch")
    return Made(trained.net, {"scratch": epochs}, trained.events)


def renewed(net: nn.Module, seed: int) -> nn.Module:
    """Draw all weights of ``net``, a residual net for small images, anew as its constructor would at its size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in net.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        init_convolutions(net)
    return net


def _one_shot(work: Work) -> Made:
    """Train dense, prune to the pattern's operations, fine-tune."""
    epochs, shape = work.recipe.train.epochs, work.data.image_shape
    if epochs < 2:
        raise UsageError(f"one-shot pruning shares its epochs between training and fine-tuning; {epochs} is too few")
    tuned = max(1, epochs // 3)
    dense = work.fitted(starting_net(work.recipe, work.data, work.device), epochs - tuned, "dense")
    pruned = pruned_once(dense.net, shape, macs(load_net(work.pattern), shape))
    done = work.fitted(pruned, tuned, "fine-tuning", draw=1_000_000)
    return Made(done.net, {"dense": epochs - tuned, "fine-tuning": tuned}, [*dense.events, *done.events])


_MAKERS: Mapping[str, Callable[[Work], Made]] = {"scratch": _scratch, "one-shot": _one_shot}


def _sealed(work: Work, made: Made) -> Manifest:
    """Save the net and seal it with the facts that the pipeline's own training stage records."""
    net = made.net
    if not isinstance(net, Normalised):
        raise ArtifactError(f"a trained net must be a Normalised one, found {type(net).__name__}")
    data, folder = work.data, work.stage.folder
    info = NetInfo(
        net=work.recipe.net, classes=data.classes, image_shape=data.image_shape, mean=data.mean, std=data.std
    )
    save_net(folder, net.cpu(), info)
    dense = dense_net(info)
    facts = {
        "macs": macs(net, data.image_shape),
        "params": params(net),
        "dense_macs": macs(dense, data.image_shape),
        "dense_params": params(dense),
        "data": data.facts(),
        "phases": dict(made.phases),
        "events": list(made.events),
    }
    return work.stage.seal([folder / WEIGHTS_FILE, folder / NET_FILE], facts)
