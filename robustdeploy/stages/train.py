"""Train: the net under its budget, and the dense net beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from robustdeploy.core.asked import DEFAULT_RECIPE, DEFAULT_RUNS, recipe_for
from robustdeploy.core.interrupts import catch_signals
from robustdeploy.core.plain import plain
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.settings import overrides
from robustdeploy.core.talk import SILENCE, Talk
from robustdeploy.core.target import Target
from robustdeploy.core.trust import remember
from robustdeploy.data.find import looking_once
from robustdeploy.data.load import Loaded, load_data
from robustdeploy.engine.manifest import FILE_NAME, Manifest
from robustdeploy.engine.run import Run, training_content
from robustdeploy.evaluate.attack import adversaries_from
from robustdeploy.export.rehearsal import OPSET, rehearse
from robustdeploy.preflight import check_rules
from robustdeploy.stages.sealing import is_due, working
from robustdeploy.train import ranks
from robustdeploy.train.facts import DENSE, dense_cost_facts
from robustdeploy.train.setup import device_from, is_pruned
from robustdeploy.train.stage import check_affordable, check_trainable, train_dense, train_pruned
from robustdeploy.train.stage import follow as follow_rank_0
from robustdeploy.train.start import pinned, start_inputs, starting_net


def prune(
    recipe: str | Path | Recipe = DEFAULT_RECIPE,
    ops: float | None = None,
    *,
    targets: Sequence[Target] = (),
    runs: Path = DEFAULT_RUNS,
    name: str | None = None,
    force: bool = False,
    talk: Talk = SILENCE,
) -> Run:
    """Train, prune and certify; train the dense net beside it when the recipe asks for the comparison.

    A rule that no evaluation of the recipe can meet, on ``targets`` where they are given, is a RecipeError before it.

    A repeated call resumes what was interrupted and skips what is done; ``force`` does it again. Under ``torchrun``
    this is for rank 0; all other processes call ``follow``.
    """

    loaded = pinned(recipe if isinstance(recipe, Recipe) else recipe_for(recipe, ops))
    adversaries_from(loaded.evaluate.attacks)  # found wrong after hours of training, an attack would cost them
    with looking_once():
        if new := not Run.folder_for(runs, loaded, name).exists():
            check_affordable(loaded)
        data = load_data(loaded.data, partial(talk.progress, "reading images"), talk.say)
        if force or not (Run.folder_for(runs, loaded, name) / "train" / FILE_NAME).exists():
            check_rules(loaded, targets, partial(dense_costs, data=data))
    if new:
        for note in check_trainable(loaded, data):
            talk.say(note)
        for opset in sorted({target.opset for target in targets} or {OPSET}):
            rehearse(loaded, data, opset)
    remember(loaded.net)  # who trains with a factory need not vouch for it again
    run = Run.for_recipe(runs, loaded, name, anew=force)
    for note in kept_settings(run, loaded):
        talk.say(note)
    with working(run), ranks.joined(device_from(loaded.train.device)):
        talk.begin(run.root, run.recipe)
        parts = training_content(loaded)
        parameters = {part: parts[part] for part in ("data", "net", "threat", "train", "prune", "budget")}
        stages = [("train", train_pruned, parameters)]
        if loaded.baseline and is_pruned(loaded):
            dense = {part: value for part, value in parameters.items() if part not in ("prune", "budget")}
            stages.insert(0, ("dense", train_dense, dense))
        for stage_name, work, its in stages:
            stage = run.stage(stage_name, stage_name, {"images": data.digest, **start_inputs(loaded)}, its)
            if not is_due(stage, force, talk):
                continue

            def progress(step: int, steps: int, numbers: Any, label: str = stage_name) -> None:
                epochs = loaded.train.epochs
                talk.progress(f"training {label}", step, steps, epoch=step * epochs // steps, epochs=epochs, **numbers)

            manifest = work(loaded, data, stage, progress, talk)
            talk.say(f"{stage_name}: {costs_text(manifest)} ({manifest.duration_s:.0f} s)")
        ranks.announce(ranks.DONE)
    return run


def kept_settings(run: Run, asked: Recipe) -> Iterator[str]:
    """Say where a run keeps its own evaluation and gate, though others were asked for."""
    for change in overrides(run.recipe.evaluate, plain(asked.evaluate)):
        yield f"note: the run keeps its own recipe; asked for: {change}"
    if plain(run.recipe.gate) != plain(asked.gate):
        yield "note: the run keeps its own gate; others judge with `robustdeploy gate --rules FILE`"


def dense_costs(recipe: Recipe, data: Loaded | None = None) -> dict[str, float]:
    """Return what the dense net costs, by the names of Budget; ``data`` is its data set where that is read already."""
    data = data or load_data(recipe.data)
    facts = dense_cost_facts(starting_net(recipe, data, device_from("cpu")), data.image_shape)
    return {name: facts[fact] or 0 for name, fact in DENSE.items()}


def follow(recipe: Recipe) -> None:
    """Train along with the process that calls ``prune`` with this recipe; for all but rank 0 under ``torchrun``."""

    recipe = pinned(recipe)
    data = load_data(recipe.data)
    with catch_signals(), ranks.joined(device_from(recipe.train.device)):
        follow_rank_0(recipe, data)


def costs_text(manifest: Manifest) -> str:
    """Say what the net of a training costs, beside the dense one."""
    facts = manifest.facts
    if "macs" not in facts:
        return f"{facts['dense_macs']:,} MACs, {facts['dense_params']:,} parameters"
    share = facts["macs"] / facts["dense_macs"]
    return f"{facts['macs']:,} of {facts['dense_macs']:,} MACs ({share:.4f}), {facts['params']:,} parameters"
