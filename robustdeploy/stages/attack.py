"""Attack: find adversarial images in torch, once for each net, for all targets to replay."""

from __future__ import annotations

from pathlib import Path

from robustdeploy.core.plain import plain
from robustdeploy.core.settings import label_of
from robustdeploy.core.subject import FP32
from robustdeploy.core.talk import Talk
from robustdeploy.core.trust import Trust
from robustdeploy.engine.artifact import Sealed
from robustdeploy.engine.lineage import ATTACKS
from robustdeploy.engine.run import Run
from robustdeploy.evaluate.adversarial import Attacked, attack_inputs, attack_net
from robustdeploy.evaluate.attack import Images
from robustdeploy.stages.sealing import is_due, sealed_stage
from robustdeploy.train.setup import device_from


def attack(
    run: Run,
    asked: Run,
    net: str,
    trained: Sealed,
    test: Images,
    *,
    deployed: bool,
    trust: Trust,
    force: bool,
    talk: Talk,
) -> Path:
    """Attack the net that ``trained`` holds, unless that is done; return the folder with what was found.

    ``asked`` is the run with the settings that are asked for; those of others than the run's own stand beside.
    """
    recipe = asked.recipe
    label = label_of(run.recipe.evaluate, recipe.evaluate)
    subject = Attacked(trained.folder, deployed, str(device_from(recipe.train.device)), trust)
    source = "net" if trained.folder.name == "train" else "dense"
    settings = {
        "evaluate": plain(recipe.evaluate),
        "threat": plain(recipe.threat),
        "seed": recipe.seed,
        "deployed": deployed,
    }
    place = f"{ATTACKS}/{net}/{FP32}{f'@{label}' if label else ''}"
    stage = run.stage("attack", place, attack_inputs(subject, source, test), settings)
    if is_due(stage, force, talk):
        # Said apart from the targets' attacks, which replay these.
        def progress(what: str, done: int, total: int) -> None:
            talk.progress(f"{net} in torch, {what}", done, total)

        attack_net(subject, recipe, test, stage, progress)
        talk.say(f"attack: {net} in torch, {len(test.ids)} test images, found in {stage.folder}")
    return sealed_stage(run, place).folder
