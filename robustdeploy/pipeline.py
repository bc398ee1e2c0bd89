"""The pipeline: prune → export → evaluate → report → gate, each skipped while what it made is still true."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from robustdeploy.core.artifact import Artifact, Sealed
from robustdeploy.core.facts import check_facts
from robustdeploy.core.files import atomic_write_json, sha256_of_file
from robustdeploy.core.interrupts import catch_signals
from robustdeploy.core.lineage import behind, chain_problems
from robustdeploy.core.load import gate_problems, load_recipe, load_target, prospect_of
from robustdeploy.core.manifest import FILE_NAME, Manifest
from robustdeploy.core.metrics import METRICS
from robustdeploy.core.plain import plain
from robustdeploy.core.recipe import Evaluate, Recipe
from robustdeploy.core.registry import FORMATS as REPORT_FORMATS
from robustdeploy.core.report import Report
from robustdeploy.core.run import Run, training_content
from robustdeploy.core.settings import (
    DEVICE,
    differences,
    evaluation_name,
    label_of,
    overrides,
    report_suffix,
    target_of,
)
from robustdeploy.core.stage import Stage
from robustdeploy.core.talk import SILENCE, Talk
from robustdeploy.core.target import Target
from robustdeploy.core.trust import Trust, check_trusted, remember
from robustdeploy.errors import ArtifactError, RecipeError, UsageError
from robustdeploy.preflight import check_data, check_evaluable, check_finished
from robustdeploy.report.assemble import assemble
from robustdeploy.report.render import render
from robustdeploy.report.stored import evaluation_named
from robustdeploy.report.stored import read_report as read_report  # the last of the verbs that Python users call

DEFAULT_RECIPE = "digits-resnet8"
DEFAULT_TARGET = "host-cpu"
DEFAULT_RUNS = Path("runs")
FORMATS = ("html", "md", "junit")


def recipe_for(
    name: str | Path,
    ops: float | None = None,
    target: Target | None = None,
    overrides: Sequence[str] = (),
    before: Callable[[Recipe], object] | None = None,
) -> Recipe:
    """Load a recipe, with the operation budget and the target's channel multiple put in.

    ``before`` gets it as soon as it is checked as far as that goes without torch.
    """
    more = [] if ops is None else [f"budget.ops={ops!r}"]
    check = None if before is None else lambda recipe: before(_for_target(recipe, target))
    return _for_target(load_recipe(name, (*overrides, *more), before=check), target)


def _for_target(recipe: Recipe, target: Target | None) -> Recipe:
    multiple = max(recipe.budget.channel_multiple, target.channel_multiple if target else 1)
    if multiple == recipe.budget.channel_multiple:
        return recipe
    return recipe.model_copy(update={"budget": recipe.budget.model_copy(update={"channel_multiple": multiple})})


@contextmanager
def _working(run: Run) -> Iterator[None]:
    with catch_signals(), run.lock():
        yield


def prune(
    recipe: str | Path | Recipe = DEFAULT_RECIPE,
    ops: float | None = None,
    *,
    target: Target | None = None,
    runs: Path = DEFAULT_RUNS,
    name: str | None = None,
    force: bool = False,
    talk: Talk = SILENCE,
) -> Run:
    """Train, prune and certify; train the dense net beside it when the recipe asks for the comparison.

    A rule that no evaluation of the recipe can meet, on ``target`` where that is given, is a RecipeError before it.

    A repeated call resumes what was interrupted and skips what is done; ``force`` does it again. Under ``torchrun``
    this is for rank 0; all other processes call ``follow``.
    """
    from robustdeploy.data.load import load_data
    from robustdeploy.evaluate.attack import adversaries_from
    from robustdeploy.export.rehearsal import OPSET, rehearse
    from robustdeploy.train import ranks
    from robustdeploy.train.setup import device_from, is_pruned
    from robustdeploy.train.stage import check_affordable, check_trainable, train_dense, train_pruned
    from robustdeploy.train.start import pinned, start_inputs

    loaded = pinned(recipe if isinstance(recipe, Recipe) else recipe_for(recipe, ops))
    adversaries_from(loaded.evaluate.attacks)  # found wrong after hours of training, an attack would cost them
    if new := not Run.folder_for(runs, loaded, name).exists():
        check_affordable(loaded)
    data = load_data(loaded.data, partial(talk.progress, "reading images"), talk.say)
    if force or not (Run.folder_for(runs, loaded, name) / "train" / FILE_NAME).exists():
        check_rules(loaded, target)
    if new:
        for note in check_trainable(loaded, data):
            talk.say(note)
        rehearse(loaded, data, target.opset if target else OPSET)
    remember(loaded.net)  # who trains with a factory need not vouch for it again
    run = Run.for_recipe(runs, loaded, name, anew=force)
    for note in kept_settings(run, loaded):
        talk.say(note)
    with _working(run), ranks.joined(device_from(loaded.train.device)):
        parts = training_content(loaded)
        parameters = {part: parts[part] for part in ("data", "net", "threat", "train", "prune", "budget")}
        stages = [("train", train_pruned, parameters)]
        if loaded.baseline and is_pruned(loaded):
            dense = {part: value for part, value in parameters.items() if part not in ("prune", "budget")}
            stages.insert(0, ("dense", train_dense, dense))
        for stage_name, work, its in stages:
            stage = run.stage(stage_name, stage_name, {"images": data.digest, **start_inputs(loaded)}, its)
            if not _fresh(stage, force, talk):
                continue

            def progress(step: int, steps: int, numbers: Any, label: str = stage_name) -> None:
                epochs = loaded.train.epochs
                talk.progress(f"training {label}", step, steps, epoch=step * epochs // steps, epochs=epochs, **numbers)

            manifest = work(loaded, data, stage, progress)
            talk.say(f"{stage_name}: {_trained(manifest)} ({manifest.duration_s:.0f} s)")
        ranks.announce(ranks.DONE)
    return run


def kept_settings(run: Run, asked: Recipe) -> Iterator[str]:
    """Say where a run keeps its own evaluation and gate, though others were asked for."""
    for change in overrides(run.recipe.evaluate, plain(asked.evaluate)):
        yield f"note: the run keeps its own recipe; asked for: {change}"
    if plain(run.recipe.gate) != plain(asked.gate):
        yield "note: the run keeps its own gate; others judge with `robustdeploy gate --rules FILE`"


def check_rules(recipe: Recipe, target: Target | None = None) -> None:
    """Raise a RecipeError that names every rule of the recipe's gate that its evaluation could never meet."""
    from robustdeploy.data.find import find_source

    asks = any(METRICS[rule.metric].support in ("images", "curve") for rule in recipe.gate if rule.metric in METRICS)
    source = find_source(recipe.data)
    prospect = replace(
        prospect_of(recipe),
        target=target,
        test_images=source.test_images if asks else None,
        classes=source.classes,
        dense=partial(_dense_costs, recipe),
    )
    if problems := [text for _, text in gate_problems(prospect)]:
        raise RecipeError(*(f"gate: {text}" for text in problems))


def _dense_costs(recipe: Recipe) -> dict[str, float]:
    """Return what the dense net costs, by the names of Budget."""
    from robustdeploy.data.load import load_data
    from robustdeploy.train.facts import DENSE, dense_cost_facts
    from robustdeploy.train.setup import device_from
    from robustdeploy.train.start import starting_net

    data = load_data(recipe.data)
    facts = dense_cost_facts(starting_net(recipe, data, device_from("cpu")), data.image_shape)
    return {name: facts[fact] or 0 for name, fact in DENSE.items()}


def adopt(
    folder: str | Path,
    recipe: str | Path | Recipe | None = None,
    *,
    data: Path | None = None,
    overrides: Sequence[str] = (),
    runs: Path = DEFAULT_RUNS,
    name: str | None = None,
    force: bool = False,
    trust: Trust = False,
    talk: Talk = SILENCE,
) -> Run:
    """Make a run of a net that is trained already, ``net.json`` and ``model.safetensors`` in ``folder``.

    ``recipe`` says what it is attacked with and held against; left out, it is the ``recipe.yaml`` beside the net. A
    factory is called if ``recipe`` or the override ``net=`` names it, or ``trust`` does, as for ``load_net``.
    """
    origin = Path(folder)
    more = [*overrides, *([] if data is None else [f"data.path={data}"])]
    loaded = recipe if isinstance(recipe, Recipe) else _recipe_to_adopt(origin, recipe, more)
    from robustdeploy.data.load import load_data
    from robustdeploy.nets.store import load_info
    from robustdeploy.train.adopt import adopt as adopt_net
    from robustdeploy.train.adopt import adopted_files, check_fits

    info = load_info(origin)
    named = recipe is not None or any(each.replace(" ", "").startswith("net=") for each in overrides)
    trust = trust or ([loaded.net] if named else False)
    check_trusted(info.net, origin, trust)
    # Neither the dense net beside it nor another net's name belongs to what is taken over.
    loaded = loaded.model_copy(update={"net": info.net, "baseline": False})
    images = load_data(loaded.data, partial(talk.progress, "reading images"), talk.say)
    check_fits(info, images)
    run = Run.for_recipe(runs, loaded, name or origin.resolve().name, anew=force)
    with _working(run):
        stage = run.stage("adopt", "train", {"images": images.digest, **adopted_files(origin)}, plain(loaded.budget))
        if _fresh(stage, force, talk):
            manifest = adopt_net(loaded, info, images, origin, stage, trust)
            if named:
                remember(info.net)
            talk.say(f"adopt: {_trained(manifest)}, from {origin}")
    return run


def _recipe_to_adopt(folder: Path, named: str | Path | None, overrides: Sequence[str]) -> Recipe:
    path = folder / "recipe.yaml" if named is None else named
    if named is None and not (folder / "recipe.yaml").is_file():
        raise UsageError(f"{folder} holds a net but no recipe.yaml; say with --recipe what to hold the net against")
    return recipe_for(path, overrides=overrides, before=lambda quick: check_data(quick.data))


def follow(recipe: Recipe) -> None:
    """Train along with the process that calls ``prune`` with this recipe; for all but rank 0 under ``torchrun``."""
    from robustdeploy.data.load import load_data
    from robustdeploy.train import ranks
    from robustdeploy.train.setup import device_from
    from robustdeploy.train.stage import follow as follow_rank_0
    from robustdeploy.train.start import pinned

    recipe = pinned(recipe)
    data = load_data(recipe.data)
    with catch_signals(), ranks.joined(device_from(recipe.train.device)):
        follow_rank_0(recipe, data)


def _fresh(stage: Stage, force: bool, talk: Talk) -> bool:
    """Whether a stage has work to do; ``force`` clears what it made before."""
    if force:
        stage.clear()
    elif (manifest := stage.sealed()) is not None:
        talk.say(f"{stage.name}: done already, sealed {manifest.started[:19]}Z and unchanged; skipped")
        return False
    return True


def _trained(manifest: Manifest) -> str:
    facts = manifest.facts
    if "macs" not in facts:
        return f"{facts['dense_macs']:,} MACs, {facts['dense_params']:,} parameters"
    share = facts["macs"] / facts["dense_macs"]
    return f"{facts['macs']:,} of {facts['dense_macs']:,} MACs ({share:.4f}), {facts['params']:,} parameters"


def _sealed(run: Run, place: str, how: str) -> Sealed:
    """Return a finished stage after checking every file it made."""
    check_finished(run.root, place, how)
    try:
        manifest = run.sealed(place)
        check_facts(place, manifest.facts, str(run.root / place / FILE_NAME))
        return Sealed(run.root / place, manifest)
    except ArtifactError as error:
        raise ArtifactError(*(f"{line}; `{how} --force` makes it again" for line in error.args)) from None


def export(
    run: Run,
    target: str | Target = DEFAULT_TARGET,
    *,
    force: bool = False,
    trust: Trust = False,
    talk: Talk = SILENCE,
) -> Artifact:
    """Export the run's net for ``target``; return the bundle, sealed with its past. ``trust``: as for ``load_net``."""
    goal = load_target(target) if isinstance(target, str) else target
    check_finished(run.root, "train", "robustdeploy prune")
    from robustdeploy.export.stage import export as export_net
    from robustdeploy.export.stage import export_inputs

    with _working(run):
        train = _sealed(run, "train", "robustdeploy prune")
        parameters = {"target": plain(goal), "threat": plain(run.recipe.threat), "recipe": run.recipe.name}
        stage = run.stage("export", f"export/{goal.name}", export_inputs(train.folder), parameters)
        if not force:
            _same_target(run, goal)
        if _fresh(stage, force, talk):
            talk.progress("exporting", 0, 1)
            manifest = export_net(run.recipe, goal, train.folder, train.manifest.facts, stage, trust)
            talk.progress("exporting", 1, 1)
            parity = manifest.facts["parity"]
            talk.say(
                f"export: scores within {max(parity['max_abs_clean'], parity['max_abs_adversarial']):.1e} of torch on "
                f"{parity['n']} clean and {parity['n']} adversarial images ({parity['runtime']})"
            )
            for note in manifest.facts["notes"]:
                talk.say(f"note: {note}")
        return _sealed(run, stage.place, f"robustdeploy export --target {goal.name}").artifact("bundle.zip")


def _same_target(run: Run, goal: Target) -> None:
    """Refuse a target that another definition of the same name was exported for: its evidence would be replaced."""
    held = run.manifests().get(f"export/{goal.name}")
    changed = list(differences(held.parameters.get("target", {}), plain(goal))) if held else []
    if changed:
        told = "; ".join(f"{each.field} {each.recipe}, now {each.used}" for each in changed)
        raise UsageError(
            f"{run.root} has results of another target called {goal.name} ({told}); give yours another name, or "
            f"replace them with `robustdeploy export {run.root} --target … --force`"
        )


def evaluate(
    run: Run,
    target: str | Target = DEFAULT_TARGET,
    *,
    settings: Evaluate | None = None,
    data: Path | None = None,
    skip_unreadable: bool = False,
    force: bool = False,
    trust: Trust = False,
    talk: Talk = SILENCE,
) -> Artifact:
    """Attack and time what runs on ``target``; return the outcomes. Sealed parts are never redone.

    ``settings`` other than those of the run's recipe leave theirs alone: the outcomes stand beside, in a folder of
    their own. ``data`` is the data set's folder where that has moved, ``skip_unreadable`` is as in the recipe's
    ``data``, and ``trust`` as for ``load_net``.
    """
    goal = load_target(target) if isinstance(target, str) else target
    check_evaluable(run, goal.name, data)
    from robustdeploy.evaluate import stage as evaluation
    from robustdeploy.evaluate.attack import chosen
    from robustdeploy.export.agent import own_agent
    from robustdeploy.export.bundle import GOLDEN, golden_from, read_bundle
    from robustdeploy.export.parity import parity_rows
    from robustdeploy.nets.store import load_info
    from robustdeploy.train.setup import device_from, is_pruned

    used = settings or run.recipe.evaluate
    name = evaluation_name(goal.name, label_of(run.recipe.evaluate, used))
    with _working(run), ExitStack() as stack:
        train = _sealed(run, "train", "robustdeploy prune")
        exported = _sealed(run, f"export/{goal.name}", f"robustdeploy export --target {goal.name}")
        _same_target(run, goal)
        _up_to_date(run, f"export/{goal.name}")
        info, compared = load_info(train.folder), run.recipe.baseline and is_pruned(run.recipe)
        images = _test_images(run, info.classes, data, skip_unreadable, talk)
        request = evaluation.Request(
            run=replace(run, recipe=run.recipe.model_copy(update={"evaluate": used})),
            target=goal,
            test=chosen(images, used.limit),
            available=len(images),
            classes=info.classes,
            net=train.folder,
            dense=_sealed(run, "dense", "robustdeploy prune").folder if compared else None,
            export=exported.folder,
            agent=stack.enter_context(own_agent(exported.folder / "agent.pyz", talk.say)),
            golden=golden_from(read_bundle(exported.folder / "bundle.zip")[GOLDEN], info),
            extra_rows=parity_rows(exported.manifest.facts),
            device=str(device_from(run.recipe.train.device)),
            trust=trust,
            reading=images.reading,
        )
        asked = {"evaluate": plain(used), "threat": plain(run.recipe.threat), "target": plain(goal)}
        stage = run.stage("evaluate", f"{DEVICE}/{name}", evaluation.evaluation_inputs(request), asked)
        if not force:
            _same_images(run, stage)
        if _fresh(stage, force, talk):
            evaluation.evaluate(request, stage, talk.progress)
            talk.say(f"evaluate: {len(request.test.ids)} test images, outcomes in {stage.folder}")
        return _sealed(run, stage.place, f"robustdeploy evaluate --target {goal.name}").artifact("outcomes.npz")


def _test_images(run: Run, classes: Sequence[str], data: Path | None, skip_unreadable: bool, talk: Talk) -> Any:
    from robustdeploy.data.load import load_test

    where = run.recipe.data.model_copy(update={} if data is None else {"path": data})
    where = where.model_copy(update={"skip_unreadable": where.skip_unreadable or skip_unreadable})
    return load_test(where, classes, partial(talk.progress, "reading images"), talk.say)


def _up_to_date(run: Run, *places: str) -> None:
    """Raise an ArtifactError that names every one of ``places`` that was made from what is there no more."""
    if problems := list(chain_problems(run.root, places, run.manifests(), run.recipe)):
        raise ArtifactError(*problems)


def _same_images(run: Run, stage: Stage) -> None:
    """Refuse to replace an evaluation of the same net and engine by one on other test images."""
    held = run.manifests().get(stage.place)
    changed = {name for name, mark in stage.inputs.items() if held and held.inputs.get(name) != mark}
    if changed == {"test_images"}:
        raise UsageError(
            f"the test images are not those that {stage.folder} was evaluated on; name the folder of those with "
            "--data, or replace that evaluation with --force"
        )


@dataclass(frozen=True)
class Written:
    """A judged report and the files that show it."""

    report: Report
    files: tuple[Path, ...]


def report(run: Run, target: str | None = None, *, formats: Sequence[str] = FORMATS, talk: Talk = SILENCE) -> Written:
    """Assemble, judge and render the report of one evaluation.

    ``target`` names it: a target, or ``TARGET@LABEL`` for an evaluation under other settings, whose files stand beside
    those of the recipe's own. Left out, it is the newest of the recipe's own.
    """
    for each in formats:
        if each not in REPORT_FORMATS:
            raise UsageError(REPORT_FORMATS.unknown(each))
    name = evaluation_named(run, target)
    goal = target_of(name)
    with _working(run):
        train = _sealed(run, "train", "robustdeploy prune")
        exported = _sealed(run, f"export/{goal}", f"robustdeploy export --target {goal}")
        evaluation = _sealed(run, f"{DEVICE}/{name}", f"robustdeploy evaluate --target {goal}")
        _up_to_date(run, *behind(name))
        made = assemble(run.name, goal, run.recipe, train, exported, evaluation)
        path = run.root / f"report{report_suffix(name)}.json"
        atomic_write_json(path, made.model_dump(mode="json"))
        files = (path, *render(made, formats, run.root, report_suffix(name)))
        run.enter_written({file: sha256_of_file(file) for file in files})
    talk.say(f"report: {made.verdict.headline}, on {name}")
    return Written(made, files)
