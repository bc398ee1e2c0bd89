"""Evaluate: attack and time what runs on one target."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from robustdeploy.core.asked import DEFAULT_TARGET
from robustdeploy.core.files import sha256_of_file
from robustdeploy.core.load import load_target
from robustdeploy.core.plain import plain
from robustdeploy.core.recipe import Evaluate
from robustdeploy.core.settings import DEVICE, evaluation_name, label_of
from robustdeploy.core.subject import DENSE, FP32, Subject
from robustdeploy.core.talk import SILENCE, Talk
from robustdeploy.core.target import Target
from robustdeploy.core.trust import Trust
from robustdeploy.data.find import looking_once
from robustdeploy.data.load import load_test
from robustdeploy.engine.artifact import Artifact
from robustdeploy.engine.facts import own_net
from robustdeploy.engine.run import Run
from robustdeploy.errors import UsageError
from robustdeploy.evaluate import stage as evaluation
from robustdeploy.evaluate.attack import chosen
from robustdeploy.export.agent import own_agent
from robustdeploy.export.bundle import GOLDEN, golden_from, read_bundle
from robustdeploy.export.parity import parity_rows
from robustdeploy.nets.store import load_info
from robustdeploy.preflight import check_evaluable
from robustdeploy.stages.attack import attack
from robustdeploy.stages.sealing import check_same_target, check_up_to_date, is_due, sealed_stage, working
from robustdeploy.train.setup import device_from, is_pruned


def evaluate(
    run: Run,
    target: str | Target = DEFAULT_TARGET,
    *,
    settings: Evaluate | None = None,
    data: Path | None = None,
    skip_unreadable: bool = False,
    force: bool = False,
    replay: bool = False,
    trust: Trust = False,
    talk: Talk = SILENCE,
) -> Artifact:
    """Attack and time what runs on ``target``; return the outcomes. Sealed parts are never redone.

    ``settings`` other than those of the run's recipe leave theirs alone: the outcomes stand beside, in a folder of
    their own. ``data`` is the data set's folder where that has moved, ``skip_unreadable`` is as in the recipe's
    ``data``, and ``trust`` as for ``load_net``. ``force`` does all of it again; with ``replay``, what was found in
    torch stays, as for the second of several targets.
    """
    goal = load_target(target) if isinstance(target, str) else target
    used = settings or run.recipe.evaluate
    name = evaluation_name(goal.name, label_of(run.recipe.evaluate, used))
    with ExitStack() as stack:
        stack.enter_context(looking_once())
        check_evaluable(run, goal.name, data)
        stack.enter_context(working(run))
        talk.begin(run.root, run.recipe)
        train = sealed_stage(run, "train")
        exported = sealed_stage(run, f"export/{goal.name}")
        check_same_target(run, goal)
        check_up_to_date(run, f"export/{goal.name}")
        info, compared = load_info(train.folder), run.recipe.baseline and is_pruned(run.recipe)
        images = _test_images(run, info.classes, data, skip_unreadable, talk)
        asked = replace(run, recipe=run.recipe.model_copy(update={"evaluate": used}))
        test, place = chosen(images, used.limit), f"{DEVICE}/{name}"
        if not force:
            _same_images(run, place, test.digest, sha256_of_file(exported.folder / "model.onnx"))
        agent = stack.enter_context(own_agent(exported.folder / "agent.pyz", talk.say))
        subject = Subject(own_net(train.manifest.facts), FP32, goal.name)
        how: Any = {"trust": trust, "force": force and not replay, "talk": talk}
        beside = sealed_stage(run, "dense") if compared else None
        request = evaluation.Request(
            subject=subject,
            run=asked,
            target=goal,
            test=test,
            available=len(images),
            classes=info.classes,
            net=train.folder,
            found=attack(run, asked, subject.net, train, test, deployed=True, **how),
            dense_found=attack(run, asked, DENSE, beside, test, deployed=False, **how) if beside else None,
            export=exported.folder,
            agent=agent,
            golden=golden_from(read_bundle(exported.folder / "bundle.zip")[GOLDEN], info),
            extra_rows=parity_rows(exported.manifest.facts, subject.reference),
            device=str(device_from(run.recipe.train.device)),
            trust=trust,
            reading=images.reading,
        )
        return _measured(run, place, request, force, talk)


def _measured(run: Run, place: str, request: evaluation.Request, force: bool, talk: Talk) -> Artifact:
    """Measure on the board, unless that is done and still true; return the outcomes."""
    recipe, target = request.run.recipe, request.target
    settings = {"evaluate": plain(recipe.evaluate), "threat": plain(recipe.threat), "target": plain(target)}
    stage = run.stage("evaluate", place, evaluation.evaluation_inputs(request), settings)
    if is_due(stage, force, talk):
        evaluation.evaluate(request, stage, talk.progress)
        talk.say(f"evaluate: {len(request.test.ids)} test images, outcomes in {stage.folder}")
    return sealed_stage(run, place).artifact("outcomes.npz")


def _test_images(run: Run, classes: Sequence[str], data: Path | None, skip_unreadable: bool, talk: Talk) -> Any:
    where = run.recipe.data.model_copy(update={} if data is None else {"path": data})
    where = where.model_copy(update={"skip_unreadable": where.skip_unreadable or skip_unreadable})
    return load_test(where, classes, partial(talk.progress, "reading images"), talk.say)


def _same_images(run: Run, place: str, images: str, onnx: str) -> None:
    """Refuse to replace an evaluation of the same net by one on other test images."""
    held = run.manifests().get(place)
    if held and held.inputs.get("onnx") == onnx and held.inputs.get("test_images") not in (None, images):
        raise UsageError(
            f"the test images are not those that {run.root / place} was evaluated on; name the folder of those with "
            "--data, or replace that evaluation with --force"
        )
