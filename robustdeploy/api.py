"""The verbs of the command line, for Python: ``prune``, ``export``, ``evaluate``, ``report``, ``gate``, and ``run``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robustdeploy.core.asked import DEFAULT_RECIPE, DEFAULT_RUNS, DEFAULT_TARGET, check_targets, recipe_for
from robustdeploy.core.gate import Rule, Verdict
from robustdeploy.core.load import load_target
from robustdeploy.core.plain import plain
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.settings import label_of, overrides
from robustdeploy.core.talk import SILENCE, Talk
from robustdeploy.core.target import Target
from robustdeploy.engine.run import Run
from robustdeploy.errors import Interrupted, RobustdeployError, UsageError
from robustdeploy.report.judge import judge_report
from robustdeploy.report.stored import read_report
from robustdeploy.stages.adopt import adopt
from robustdeploy.stages.evaluate import evaluate
from robustdeploy.stages.export import export
from robustdeploy.stages.report import Written, report
from robustdeploy.stages.train import follow, prune

__all__ = ["Written", "adopt", "evaluate", "export", "follow", "gate", "prune", "read_report", "report", "run"]


def run(
    recipe: str | Path | Recipe = DEFAULT_RECIPE,
    targets: Sequence[str | Target] = (DEFAULT_TARGET,),
    *,
    ops: float | None = None,
    runs: Path = DEFAULT_RUNS,
    name: str | None = None,
    force: bool = False,
    talk: Talk = SILENCE,
) -> Written:
    """Go all the way on every target, and report on all of them together.

    With several targets, one that is lost does not stop the others: what was to be measured there is INCONCLUSIVE. With
    one, or where all are lost, the error is raised.
    """
    goals = [load_target(target) if isinstance(target, str) else target for target in targets]
    check_targets(goals)
    loaded = recipe if isinstance(recipe, Recipe) else recipe_for(recipe, ops, goals)
    made = prune(loaded, targets=goals, runs=runs, name=name, force=force, talk=talk)
    if len(goals) > 1 and label_of(made.recipe.evaluate, loaded.evaluate):
        changed = "; ".join(map(str, overrides(made.recipe.evaluate, plain(loaded.evaluate))))
        raise UsageError(
            f"{made.root} keeps its own evaluation, and several targets are told together under that alone "
            f"({changed}); name one target, or give the run another --name"
        )
    names: list[str] = []
    word = [loaded.net]
    lost: dict[str, RobustdeployError] = {}
    for goal in goals:
        try:
            export(made, goal, force=force, trust=word, talk=talk)
            replay = bool(names)  # what was found in torch for the first target is for all
            how: Any = {"settings": loaded.evaluate, "force": force, "replay": replay, "trust": word, "talk": talk}
            names.append(evaluate(made, goal, **how).path.parent.name)
        except Interrupted:
            raise
        except RobustdeployError as error:
            if len(goals) == 1:
                raise
            lost[goal.name] = error
            made.enter_lost(goal.name, _first_line(error))
            talk.say(f"{goal.name} is lost: {error}")
    if lost and not names:
        raise next(iter(lost.values()))
    return report(made, names, lost={target: _first_line(error) for target, error in lost.items()}, talk=talk)


def gate(run: Run, rules: Sequence[Rule] | None = None, target: str | None = None) -> Verdict:
    """Judge a run's report by its own rules or by others; a report that the run does not bear out is an ArtifactError.

    ``target`` judges one target of it alone, or an evaluation under other settings than the recipe's.
    """
    return judge_report(read_report(run, target), rules)


def _first_line(error: RobustdeployError) -> str:
    return str(error).partition("\n")[0][:500]
