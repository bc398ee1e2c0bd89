"""Export: the run's net as ONNX, and the bundle for one target."""

from __future__ import annotations

from robustdeploy.core.asked import DEFAULT_TARGET
from robustdeploy.core.load import load_target
from robustdeploy.core.plain import plain
from robustdeploy.core.talk import SILENCE, Talk
from robustdeploy.core.target import Target
from robustdeploy.core.trust import Trust
from robustdeploy.engine.artifact import Artifact
from robustdeploy.engine.run import Run
from robustdeploy.export.stage import export as export_net
from robustdeploy.export.stage import export_inputs
from robustdeploy.preflight import check_finished
from robustdeploy.stages.sealing import check_same_target, is_due, sealed_stage, working


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
    check_finished(run.root, "train")

    with working(run):
        train = sealed_stage(run, "train")
        parameters = {"target": plain(goal), "threat": plain(run.recipe.threat), "recipe": run.recipe.name}
        stage = run.stage("export", f"export/{goal.name}", export_inputs(train.folder), parameters)
        if not force:
            check_same_target(run, goal)
        if is_due(stage, force, talk):
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
        return sealed_stage(run, stage.place).artifact("bundle.zip")
