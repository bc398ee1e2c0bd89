"""Preflight: what is wrong with a command that its own words and a look at the disk tell, before torch is loaded."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from robustdeploy.core.asked import recipe_for
from robustdeploy.core.choices import choice_from
from robustdeploy.core.complaint import did_you_mean
from robustdeploy.core.corruptions import listed_corruptions
from robustdeploy.core.factories import (
    TORCHVISION,
    check_factory_name,
    check_factory_source,
    is_factory,
    origin,
    source_of,
)
from robustdeploy.core.given import NET_FILES, no_run
from robustdeploy.core.load import gate_problems, prospect_of
from robustdeploy.core.metrics import METRICS
from robustdeploy.core.norms import norm_problems
from robustdeploy.core.phases import is_pruned, phases_of
from robustdeploy.core.precisions import asked_precisions, form_of, precisions_on
from robustdeploy.core.reading import parse_json, read_bounded
from robustdeploy.core.recipe import Budget, Choice, Data, Recipe
from robustdeploy.core.registry import FORMATS
from robustdeploy.core.rules import Prospect, too_few_problems
from robustdeploy.core.start import check_same_net
from robustdeploy.core.subject import PRUNED, Subject
from robustdeploy.core.target import Target
from robustdeploy.data.corruptions.protocol import check_shape
from robustdeploy.data.find import find_source
from robustdeploy.data.replay_set import check_replay_set
from robustdeploy.devices.profiles import kept_profile, profiles_beside
from robustdeploy.engine.evaluations import evaluations_named
from robustdeploy.engine.lineage import command_for, export_command
from robustdeploy.engine.manifest import FILE_NAME
from robustdeploy.engine.places import net_place, onnx_place
from robustdeploy.engine.run import Run, check_same_training, holder, in_use
from robustdeploy.engine.runner import check_finished
from robustdeploy.errors import ArtifactError, RecipeError, StorageError, UsageError
from robustdeploy.report.sides import side_of

_DEVICES = ("auto", "cpu", "cuda", "mps", "xpu", "hpu", "mtia", "xla")


def check_training(
    recipe: Recipe,
    runs: Path,
    name: str | None,
    targets: Sequence[Target] = (),
    *,
    force: bool = False,
    profiles: Path | None = None,
) -> None:
    """Refuse a run that cannot be trained: its name and folder, and all that `check_asked` looks at."""
    check_run_folder(Run.folder_for(runs, recipe, name), recipe)
    check_asked(recipe, runs, name, targets, force=force, profiles=profiles)


def check_asked(
    recipe: Recipe,
    runs: Path,
    name: str | None,
    targets: Sequence[Target] = (),
    *,
    force: bool = False,
    profiles: Path | None = None,
) -> None:
    """Refuse what no run could do: by its recipe, what it starts from, its data or its rules; nothing is written.

    A net that is trained stays what it is, whatever its rules ask; ``force`` trains it again. Limits
    on latency need ``profiles``, a folder; without it they are those beside ``runs``.
    """
    check_recipe(recipe)
    if recipe.train.start is not None:
        check_start(recipe, recipe.train.start, runs)
    check_phases(recipe)
    check_data(recipe.data)
    check_baseline(recipe, runs)
    if recipe.evaluate.corruptions:
        check_shape(find_source(recipe.data).image_shape)
    check_latency(recipe, profiles_beside(runs) if profiles is None else profiles)
    run = Run(Run.folder_for(runs, recipe, name), recipe)
    if force or not (run.root / run.net_place / FILE_NAME).exists():
        check_samples(recipe, targets)


def check_recipe(recipe: Recipe) -> None:
    """Refuse what no machine could do, whatever its data: a net, a device, a budget or an attack."""
    check_net(recipe.net)
    check_device(recipe.train.device)
    check_budget(recipe.budget)
    check_norms(recipe)
    check_attacks(recipe)


def remarks(recipe: Recipe) -> Iterator[str]:
    """Say what is allowed and yet is seldom meant; a radius or a step of more than half the range of a pixel."""
    attacks = enumerate(recipe.evaluate.attacks)
    steps = {f"evaluate.attacks[{index}].alpha": attack.options.get("alpha") for index, attack in attacks}
    balls = {"threat": recipe.threat, "evaluate.threat": recipe.evaluate.threat}
    # A length over all pixels may well be larger.
    radii = {f"{name}.eps": threat.eps for name, threat in balls.items() if threat and threat.norm == "linf"}
    for name, value in {**radii, **steps}.items():
        # A remark and no refusal, since studies of very large radii exist.
        if isinstance(value, int | float) and value > 0.5:
            yield (
                f"{name} is {value:g}, more than half of the way from black to white. "
                "It is in pixels of [0, 1]: 8 of the 255 grey levels are written 8/255"
            )


def check_run_folder(root: Path, recipe: Recipe) -> None:
    """Refuse a folder that holds another run, is in use, or cannot be made or written."""
    # The nearest that exists: it decides whether the rest of the path can be made.
    there = next(path for path in (root, *root.absolute().parents) if path.exists() or path.is_symlink())
    if not there.is_dir():
        raise UsageError(f"{root} cannot be a run folder: {there} is a file; choose another folder with --runs")
    check_same_training(root, recipe)
    if process := holder(root):
        raise in_use(root, process)
    try:
        # Permission bits do not tell of read-only mounts, quotas or root squashing, so writing is tried.
        tempfile.TemporaryDirectory(prefix=".robustdeploy-", dir=there).cleanup()
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise StorageError(f"cannot write {root}: {why}; choose another folder with --runs, or make room") from error


def check_net(net: Choice) -> None:
    """Refuse a factory whose package is not there, or that its file does not define; nothing of it is imported."""
    if not is_factory(net.name) or net.name.startswith(TORCHVISION):
        return
    check_factory_name(net.name)
    file = origin(net.name)  # also has the current folder looked at
    package = net.name.partition(":")[0].partition(".")[0]
    if source_of(package) is None:
        raise RecipeError(
            f"net '{net.name}': there is no package or module '{package}', installed, on PYTHONPATH or in this folder"
        )
    if file is not None:
        check_factory_source(net.name, file)


def check_phases(recipe: Recipe) -> None:
    """Refuse phases that train nothing the pruner needs, or that are too short for their objective."""
    phases_of(recipe, pruned=is_pruned(recipe))


def check_start(recipe: Recipe, start: Path, runs: Path) -> None:
    """Refuse a start that is neither a stored net nor a run that has trained one, or that is not the recipe's net."""
    for place in (start, start / Run(start, Recipe(name="start")).net_place):
        if (place / NET_FILES[0]).is_file():
            _check_start_net(recipe, place / NET_FILES[0], start)
            return
    if (start / "recipe.yaml").is_file():
        first = command_for(start, net_place(PRUNED))
        raise UsageError(f"train.start: the run {start} has no trained net yet; finish it first: `{first}`")
    raise UsageError(f"train.start: {no_run(start, runs)}")


def _check_start_net(recipe: Recipe, file: Path, start: Path) -> None:
    """Look at what a net.json says its net is; what is wrong with the file itself is told when it is loaded."""
    try:
        data = parse_json(read_bounded(file), str(file))
        net = Choice.model_validate(data["net"])
        smaller = len(data.get("modules", {}))
        steps = [Choice.model_validate(each) for each in data.get("preprocess", ())]
    except (ArtifactError, ValidationError, AttributeError, KeyError, TypeError):
        return
    check_same_net(recipe, net, steps, smaller, start)


def check_latency(recipe: Recipe, profiles: Path) -> None:
    """Refuse a limit on latency on a target whose times mean nothing, or without a profile of the net on it."""
    if recipe.budget.latency is not None:
        kept_profile(recipe, recipe.budget.latency, profiles)


def check_device(device: str) -> None:
    """Refuse a device whose name is none of torch's; whether a real one is there is known only to torch."""
    kind = device.partition(":")[0]
    if kind not in _DEVICES:
        near = "; did you mean 'cuda'?" if kind.lower() in ("gpu", "nvidia") else did_you_mean(kind, _DEVICES)
        raise UsageError(f"train.device is '{device}', which is no device{near} (say auto, cpu, cuda or cuda:0)")


def check_budget(budget: Budget) -> None:
    """Refuse a limit that no net can meet, since a percentage was meant."""
    for name, amount in budget.amounts.items():
        # No real net has so few operations or parameters: 30 was written for 30 %.
        if 1 < amount <= 100:
            raise UsageError(
                f"budget.{name} is {amount:g}, which would be {amount:g} in all, not a share; did you mean "
                f"{amount / 100:g}, or {amount:g}%?"
            )


def check_norms(recipe: Recipe) -> None:
    """Refuse attacks and training tasks that lack the norm of the threat."""
    if problems := [text for _, text in norm_problems(recipe)]:
        raise RecipeError(*problems)


def check_attacks(recipe: Recipe) -> None:
    """Refuse an attack, a distance, a patch or a corruption that stands twice, and a replay set that is not there."""
    its = recipe.evaluate
    for name, chosen in (("attacks", its.attacks), ("distances", its.distances), ("patches", its.patches)):
        if twice := next((each for index, each in enumerate(chosen) if each in chosen[:index]), None):
            raise UsageError(f"evaluate.{name}: {twice.name} stands there twice with the same options; keep one")
    listed_corruptions(recipe.evaluate.corruptions)
    for choice in its.attacks:
        if choice.name == "replay" and isinstance(source := choice.options.get("source"), str | Path):
            check_replay_set(Path(source))


def check_evaluable(run: Run, goal: Target, data: Path | None, precisions: Sequence[str] = ()) -> None:
    """Refuse to evaluate what has not been trained and exported, or without its data set; ``data`` is where that is."""
    check_finished(run.root, run.net_place)
    asked = asked_precisions(run.recipe, precisions)
    for each in precisions_on(goal, asked):
        place = onnx_place(run.net, each.name, goal.opset, form_of(each, asked))
        check_finished(run.root, place, export_command(run.root, Subject(run.net, each.name, goal.name)))
    check_data(run.recipe.data if data is None else run.recipe.data.model_copy(update={"path": data}))


def check_reportable(run: Run, targets: Sequence[str]) -> None:
    """Refuse to report on evaluations that are not there."""
    evaluations_named(run, targets)


def check_data(data: Data) -> None:
    """Refuse a data set that is not where it should be."""
    find_source(data)


def recipe_to_import(folder: Path, named: str | Path | None, overrides: Sequence[str]) -> Recipe:
    """Return the recipe that a stored net is held against: the one that was named, or that beside the net.

    ``folder`` holds the net, or is a file of others.
    """
    beside = (folder.parent if folder.is_file() else folder) / "recipe.yaml"
    path = beside if named is None else named
    if named is None and not beside.is_file():
        raise UsageError(f"{folder} holds a net but no recipe.yaml; say with --recipe what to hold the net against")
    return recipe_for(path, overrides=overrides, before=lambda quick: check_data(quick.data))


def check_baseline(recipe: Recipe, runs: Path) -> None:
    """Refuse a baseline of the gate that is no run and no report, or that was measured otherwise than this would be."""
    if recipe.gate_baseline is None:
        return
    if not any(rule.no_worse_than_baseline for rule in recipe.gate):
        raise RecipeError("gate_baseline is given, and no rule of the gate says no_worse_than_baseline; leave one out")
    then = side_of(recipe.gate_baseline, runs).report
    pairs = {
        "threat.norm": (recipe.attacked_within.norm, then.threat.norm),
        "threat.eps": (recipe.attacked_within.eps, then.threat.eps),
        "data.name": (recipe.data.name, then.data.get("name", recipe.data.name)),
    }
    if unlike := [f"{name} is {now}, there {was}" for name, (now, was) in pairs.items() if now != was]:
        told = "; ".join(unlike)
        raise RecipeError(f"gate_baseline {recipe.gate_baseline} was measured otherwise: {told}; give another baseline")


def check_formats(names: Sequence[str]) -> None:
    """Refuse a rendering that nobody knows, and options that it has not."""
    for name in names:
        choice_from(name, FORMATS)


def check_rules(
    recipe: Recipe,
    targets: Sequence[Target] = (),
    dense: Callable[[Recipe], Mapping[str, float]] | None = None,
) -> None:
    """Raise a RecipeError that names every rule of the recipe's gate that its evaluation could never meet.

    ``dense`` works out what the dense net costs, by the names of Budget; it is asked only where a rule needs it.
    """
    # To count the test images may read a large archive.
    asks = any(
        METRICS[rule.metric].support not in ("samples", "count") for rule in recipe.gate if rule.metric in METRICS
    )
    source = find_source(recipe.data)
    prospect = replace(
        prospect_of(recipe),
        targets=tuple(targets),
        test_images=source.test_images if asks else None,
        classes=source.classes,
        dense=None if dense is None else partial(dense, recipe),
    )
    _refuse(gate_problems(prospect))


def check_samples(recipe: Recipe, targets: Sequence[Target] = ()) -> None:
    """Refuse rules that ask for more images or samples than there will be: the part of `check_rules` without torch."""
    source = find_source(recipe.data)
    counted = None if source.count_test is None else source.count_test()
    _refuse(gate_problems(Prospect(recipe, {}, targets=tuple(targets), test_images=counted), too_few_problems))


def _refuse(problems: Iterable[tuple[object, str]]) -> None:
    if texts := [text for _, text in problems]:
        raise RecipeError(*(f"gate: {text}" for text in texts))
