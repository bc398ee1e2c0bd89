"""The verbs of the command line, for Python: run, plan, prune, export, evaluate, report, gate, sweep and more.

All but the last four ask one graph of stages for different parts of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from robustdeploy.comparing.going import compare_systems
from robustdeploy.core.asked import DEFAULT_RECIPE, DEFAULT_RUNS, DEFAULT_TARGET, check_targets, recipe_for, suited
from robustdeploy.core.builds import with_builds
from robustdeploy.core.callback import SILENT, Callback
from robustdeploy.core.cluster import HERE, check_sharing
from robustdeploy.core.files import canonical_json, temporary_folder
from robustdeploy.core.gate import Rule, Verdict
from robustdeploy.core.given import is_stored_net
from robustdeploy.core.interrupts import catch_signals
from robustdeploy.core.load import load_target
from robustdeploy.core.plain import plain
from robustdeploy.core.precisions import asked_precisions, precisions_on
from robustdeploy.core.recipe import Evaluate, Recipe
from robustdeploy.core.settings import label_of, overrides
from robustdeploy.core.start import check_same_steps
from robustdeploy.core.subject import IMPORTED
from robustdeploy.core.target import OPSET, Target
from robustdeploy.core.trust import Trust, check_trusted, remember
from robustdeploy.data.find import looking_once
from robustdeploy.data.load import load_data
from robustdeploy.engine.artifact import Artifact
from robustdeploy.engine.manifest import FILE_NAME
from robustdeploy.engine.places import net_place
from robustdeploy.engine.plan import Step
from robustdeploy.engine.plan import plan as planned
from robustdeploy.engine.run import Run, check_same_training
from robustdeploy.engine.runner import Runner, check_finished, working
from robustdeploy.errors import UsageError
from robustdeploy.evaluate.attack import adversaries_from
from robustdeploy.evaluate.collecting import collect
from robustdeploy.evaluate.distances import distances_from
from robustdeploy.export.rehearsal import rehearse
from robustdeploy.imports.asked import NOTHING_SAID, Asked
from robustdeploy.imports.foreign_file import import_file
from robustdeploy.nets.store import load_info
from robustdeploy.preflight import check_evaluable, check_norms, check_rules, recipe_to_import
from robustdeploy.report.against import judged_against
from robustdeploy.report.judge import judge_report
from robustdeploy.report.sides import Side
from robustdeploy.report.stored import read_report
from robustdeploy.stages.deploying import EXPORTING, MEASURING, exported, measured_on, with_asked
from robustdeploy.stages.graph import Graph
from robustdeploy.stages.import_net import Import
from robustdeploy.stages.latency import latency_goal
from robustdeploy.stages.preparation import check_images, check_same_target, dense_costs, kept_settings
from robustdeploy.stages.report import Written, report
from robustdeploy.stages.session import Session
from robustdeploy.sweep.going import sweep
from robustdeploy.train import ranks
from robustdeploy.train.import_net import check_fits
from robustdeploy.train.setup import device_from, own_net_of
from robustdeploy.train.start import pinned
from robustdeploy.train.trainings import check_affordable, check_trainable
from robustdeploy.train.trainings import follow as follow_rank_0

__all__ = [
    "Written",
    "collect",
    "compare_systems",
    "evaluate",
    "export",
    "follow",
    "gate",
    "import_net",
    "plan",
    "prune",
    "read_report",
    "report",
    "run",
    "run_net",
    "sweep",
]


def run(
    recipe: str | Path | Recipe = DEFAULT_RECIPE,
    targets: Sequence[str | Target] = (DEFAULT_TARGET,),
    *,
    ops: float | None = None,
    precisions: Sequence[str] = (),
    builds: int = 1,
    runs: Path = DEFAULT_RUNS,
    name: str | None = None,
    force: bool = False,
    callback: Callback = SILENT,
) -> Written:
    """Go all the way on every target, in every precision, and report on all of them together.

    ``precisions`` are names, with the options that the recipe has for them; none: as the recipe or the target says.
    With more than one of ``builds`` the engine is built so often, and each build is measured and judged.

    With several targets, one that is lost does not stop the others: what was to be measured there is INCONCLUSIVE. With
    one, or where all are lost, the error is raised.
    """
    loaded, goals = _asked(recipe, ops, targets, precisions)
    goals = with_builds(goals, builds)
    made = prune(loaded, targets=goals, runs=runs, name=name, force=force, callback=callback)
    return _told(made, goals, loaded, force, callback)


def _told(made: Run, goals: Sequence[Target], loaded: Recipe, force: bool, callback: Callback) -> Written:
    """Measure a run that has its net on all targets, and report on them together."""
    # One report tells one set of settings: rows under several would stand beside each other as if comparable.
    if len(goals) > 1 and label_of(made.recipe.evaluate, loaded.evaluate):
        changed = "; ".join(map(str, overrides(made.recipe.evaluate, plain(loaded.evaluate))))
        raise UsageError(
            f"{made.root} keeps its own evaluation, and several targets are told together under that alone "
            f"({changed}); name one target, or give the run another --name"
        )
    names, lost = measured_on(made, goals, loaded, force, callback)
    return report(made, names, lost=lost, callback=callback)


def run_net(
    origin: str | Path,
    recipe: str | Path | Recipe | None = None,
    targets: Sequence[str | Target] = (DEFAULT_TARGET,),
    *,
    asked: Asked = NOTHING_SAID,
    overrides: Sequence[str] = (),
    precisions: Sequence[str] = (),
    builds: int = 1,
    runs: Path = DEFAULT_RUNS,
    name: str | None = None,
    force: bool = False,
    trust: Trust = False,
    callback: Callback = SILENT,
) -> Written:
    """Make a run of a net that is trained already, as ``import_net`` does, and then go all the way as ``run`` does."""
    origin = Path(origin)
    loaded = recipe if isinstance(recipe, Recipe) else recipe_to_import(origin, recipe, overrides)
    loaded, goals = _asked(loaded, None, targets, precisions)
    made = import_net(
        origin,
        recipe,
        asked=asked,
        overrides=overrides,
        runs=runs,
        name=name,
        force=force,
        trust=trust,
        callback=callback,
    )
    # What the net is, the import has found; how it is measured is as it is asked for now.
    loaded = loaded.model_copy(update={"net": made.recipe.net, "baseline": False})
    return _told(made, with_builds(goals, builds), loaded, force, callback)


def plan(
    recipe: str | Path | Recipe = DEFAULT_RECIPE,
    targets: Sequence[str | Target] = (DEFAULT_TARGET,),
    *,
    ops: float | None = None,
    precisions: Sequence[str] = (),
    builds: int = 1,
    runs: Path = DEFAULT_RUNS,
    name: str | None = None,
    force: bool = False,
    callback: Callback = SILENT,
) -> tuple[Run, list[Step]]:
    """Return the run that ``run`` would make or go on with, and what it would do of each stage; nothing is written."""
    loaded, goals = _asked(recipe, ops, targets, precisions)
    loaded, goals = pinned(loaded), with_builds(goals, builds)
    root, net = Run.folder_for(runs, loaded, name), own_net_of(loaded)
    kept = check_same_training(root, loaded)
    trained = kept is not None and not force and (root / net_place(net) / FILE_NAME).exists()
    # A trained run keeps its own recipe, so the plan must be of that one, as the work would be.
    run = Run(root, kept if kept is not None and trained else loaded)
    asked = with_asked(run, loaded)
    # Whoever runs a recipe vouches for the factory in it. One that only a file names is not called.
    with Session(run, asked, trust=[loaded.net], callback=callback) as session:
        return run, planned(run, list(Graph(session, net).goals(goals)), force=force)


def _asked(
    recipe: str | Path | Recipe, ops: float | None, targets: Sequence[str | Target], precisions: Sequence[str]
) -> tuple[Recipe, list[Target]]:
    goals = [load_target(target) if isinstance(target, str) else target for target in targets]
    check_targets(goals)
    loaded = suited(recipe, goals) if isinstance(recipe, Recipe) else recipe_for(recipe, ops, goals)
    loaded = loaded.model_copy(update={"precisions": asked_precisions(loaded, precisions)})
    for goal in goals:  # before hours of training
        precisions_on(goal, loaded.precisions)
    return loaded, goals


def prune(
    recipe: str | Path | Recipe = DEFAULT_RECIPE,
    ops: float | None = None,
    *,
    targets: Sequence[Target] = (),
    runs: Path = DEFAULT_RUNS,
    name: str | None = None,
    force: bool = False,
    callback: Callback = SILENT,
) -> Run:
    """Train, prune and certify; train the dense net beside it when the recipe asks for the comparison.

    A rule that no evaluation of the recipe can meet, on ``targets`` where they are given, is a RecipeError before it.

    A repeated call resumes what was interrupted and skips what is done; ``force`` does it again. Under ``torchrun``
    this is for rank 0; all other processes call ``follow``.
    """
    loaded = pinned(suited(recipe, targets) if isinstance(recipe, Recipe) else recipe_for(recipe, ops, targets))
    # Found wrong after hours of training, one of these would cost them.
    _check_attacks(loaded)
    root, net = Run.folder_for(runs, loaded, name), own_net_of(loaded)
    # Listing a data set of many files takes minutes, and checking and loading would each do so.
    with looking_once():
        if new := not root.exists():
            check_affordable(loaded)
        data = load_data(loaded.data, partial(callback.progress, "reading images"), callback.say)
        if force or not (root / net_place(net) / FILE_NAME).exists():
            check_rules(loaded, targets, partial(dense_costs, data=data))
    if new:
        # In a session of its own: the run's begins when there is a run.
        with Session(Run(root, loaded), loaded, callback=callback) as session:
            timing = latency_goal(session, measuring=False)
        for note in check_trainable(loaded, data, timing):
            callback.say(note)
        # Each opset has exporters of its own, and one of them may refuse what another takes.
        for opset in sorted({target.opset for target in targets} or {OPSET}):
            taken = [precisions_on(target, loaded.precisions) for target in targets if target.opset == opset]
            asked = {canonical_json(plain(each)): each for choices in taken for each in choices}
            for note in rehearse(loaded, data, opset, list(asked.values())):
                callback.say(f"note: {note}")
    remember(loaded.net)  # who trains with a factory need not vouch for it again
    run = Run.for_recipe(runs, loaded, name, anew=force, net=net)
    for note in kept_settings(run, loaded):
        callback.say(note)
    # What is trained follows the recipe that was asked for: it is the run's own in all that decides the weights.
    with (
        Session(run, loaded, callback=callback) as session,
        working(run),
        ranks.joined(device_from(loaded.train.device)),
    ):
        callback.begin(run.root, run.recipe)
        # Read and checked above; the stage would otherwise read it once more.
        session.training_data = data
        runner = Runner(run, ("train",), force, callback)
        for stage in Graph(session, net).nets:
            runner.make(stage)
        ranks.announce(ranks.DONE)
    return run


def follow(recipe: Recipe) -> None:
    """Train along with the process that calls ``prune`` with this recipe; for all but rank 0 under ``torchrun``."""
    recipe = pinned(recipe)
    data = load_data(recipe.data)
    with catch_signals(), ranks.joined(device_from(recipe.train.device)):
        follow_rank_0(recipe, data)


def import_net(
    origin: str | Path,
    recipe: str | Path | Recipe | None = None,
    *,
    asked: Asked = NOTHING_SAID,
    data: Path | None = None,
    overrides: Sequence[str] = (),
    runs: Path = DEFAULT_RUNS,
    name: str | None = None,
    force: bool = False,
    trust: Trust = False,
    callback: Callback = SILENT,
) -> Run:
    """Make a run of a net that is trained already.

    ``origin`` is a folder with ``net.json`` and ``model.safetensors``, or a file with a net that others trained.
    ``recipe`` says what it is attacked with and held against; left out, it is the ``recipe.yaml`` beside the net. A
    factory is called if ``recipe`` or the override ``net=`` names it, or ``trust`` does, as for ``load_net``. ``asked``
    says what the file of others does not tell by itself.
    """
    origin = Path(origin)
    more = [*overrides, *([] if data is None else [f"data.path={data}"])]
    with looking_once(), temporary_folder() as folder:
        loaded = recipe if isinstance(recipe, Recipe) else recipe_to_import(origin, recipe, more)
        named = recipe is not None or any(each.replace(" ", "").startswith("net=") for each in overrides)
        trust = trust or ([loaded.net] if named else False)
        if stored := is_stored_net(origin):
            # Before the net is loaded: its net.json may name any function on this machine.
            check_trusted(load_info(origin).net, origin, trust)
            # A recipe that says nothing of steps takes those that stand in front of the net.
            if loaded.preprocess:
                check_same_steps(loaded, load_info(origin).preprocess, origin)
        images = load_data(loaded.data, partial(callback.progress, "reading images"), callback.say)
        if stored:
            folder, info, told = origin, load_info(origin), tuple[str, ...]()
        else:
            info, told = import_file(origin, asked, loaded, images, folder, trust)
        # Neither the dense net beside it nor another net's name belongs to what is taken over.
        loaded = loaded.model_copy(update={"net": info.net, "preprocess": info.preprocess, "baseline": False})
        check_fits(info, images)
        run = Run.for_recipe(runs, loaded, name or _name_for(origin), anew=force, net=IMPORTED)
        with Session(run, loaded, trust=trust, callback=callback) as session, working(run):
            callback.begin(run.root, run.recipe)
            session.training_data = images
            Runner(run, ("import",), force, callback).make(Import(session, folder, told))
            if named:
                remember(info.net)
    return run


def _name_for(origin: Path) -> str:
    """Name a run by the folder or the file that its net came from."""
    whole = origin.resolve()
    return whole.name if whole.is_dir() else re.sub(r"[^A-Za-z0-9._-]+", "-", whole.stem).strip("-._") or "imported"


def export(
    run: Run,
    target: str | Target = DEFAULT_TARGET,
    *,
    precisions: Sequence[str] = (),
    data: Path | None = None,
    force: bool = False,
    trust: Trust = False,
    callback: Callback = SILENT,
) -> tuple[Artifact, ...]:
    """Export the run's net for ``target``; return the ONNX files that it takes. ``trust``: as for ``load_net``.

    There is one for each of ``precisions`` (none: as the recipe or the target says), the run's own net first; where the
    recipe has the dense net deployed too, its files follow. ``data`` is the folder of the images that a precision is
    calibrated on, where that has moved.
    """
    goal = load_target(target) if isinstance(target, str) else target
    check_finished(run.root, run.net_place)
    asked = run.recipe.model_copy(update={"precisions": asked_precisions(run.recipe, precisions)})
    with Session(run, asked, data, trust=trust, callback=callback) as session, working(run):
        callback.begin(run.root, run.recipe)
        # Training is left out: exporting a run that is out of date refuses, instead of training for hours.
        made = exported(Runner(run, EXPORTING, force, callback), Graph(session, run.net), goal)
        return tuple(each.artifact("model.onnx") for each in made)


def evaluate(
    run: Run,
    target: str | Target = DEFAULT_TARGET,
    *,
    precisions: Sequence[str] = (),
    settings: Evaluate | None = None,
    data: Path | None = None,
    skip_unreadable: bool = False,
    force: bool = False,
    trust: Trust = False,
    workers: int = 1,
    on: str = HERE,
    callback: Callback = SILENT,
) -> Artifact:
    """Attack and time what runs on ``target``; return the outcomes. Sealed parts are never redone.

    ``precisions`` are as for ``export``. ``settings`` other than those of the run's recipe leave theirs alone: the
    outcomes stand beside, in a folder of their own. ``data`` is the data set's folder where that has moved,
    ``skip_unreadable`` is as in the recipe's ``data``, and ``trust`` as for ``load_net``. ``force`` does all of it
    again. ``workers`` processes share the attacks in torch, and change no result; a script that asks for several stands
    under ``if __name__ == "__main__"``, since each of them imports it. ``on`` is ``here``, or the Ray cluster that
    shares them instead, ``ray://HOST:PORT``.
    """
    cluster = check_sharing(workers, on)
    goal = load_target(target) if isinstance(target, str) else target
    changed = {"precisions": asked_precisions(run.recipe, precisions), **({"evaluate": settings} if settings else {})}
    asked = run.recipe.model_copy(update=changed)
    check_norms(asked)
    with looking_once(), Session(run, asked, data, skip_unreadable, trust, callback, workers, cluster) as session:
        check_evaluable(run, goal, data, precisions)
        return _evaluated(session, goal, force)


def _evaluated(session: Session, goal: Target, force: bool) -> Artifact:
    run = session.run
    with working(run):
        session.callback.begin(run.root, run.recipe)
        if not force:
            check_same_target(run, goal)
        runner, made = Runner(run, MEASURING, force, session.callback), []
        for measure in Graph(session, run.net).measures(goal):
            check_images(measure, anew=force)
            made.append(runner.make(measure))
        # The run's own net comes first; a dense one is measured beside it.
        return made[0].artifact("outcomes.npz")


def gate(
    run: Run, rules: Sequence[Rule] | None = None, target: str | None = None, baseline: Path | None = None
) -> Verdict:
    """Judge a run's report by its own rules or by others; a report that the run does not bear out is an ArtifactError.

    ``target`` judges one target of it alone, or an evaluation under other settings than the recipe's. ``baseline`` is
    the run or ``report.json`` that rules with ``no_worse_than_baseline`` hold it against.
    """
    report = read_report(run, target)
    if baseline is None:
        return judge_report(report, rules)
    side = Side(report, run.recipe, run.root)
    return judged_against(side, report.rules if rules is None else rules, baseline, run.root.parent).verdict


def _check_attacks(recipe: Recipe) -> None:
    """Refuse attacks and distances that could not be run."""
    check_norms(recipe)
    for adversary in adversaries_from(recipe.evaluate.attacks):
        _ = adversary.settings  # looks for the nets that attacks bring along
    distances_from(recipe.evaluate.distances)
