"""Deploying: a run's nets exported to its targets and measured there, one target after the other."""

from __future__ import annotations

from collections.abc import Sequence

from robustdeploy.core.callback import Callback, Event
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.records import OnnxRecord
from robustdeploy.core.settings import evaluation_name
from robustdeploy.core.target import Target
from robustdeploy.engine.run import Run
from robustdeploy.engine.runner import Runner, working
from robustdeploy.engine.stage import Finished
from robustdeploy.errors import Interrupted, RobustdeployError
from robustdeploy.export.exporting import target_notes
from robustdeploy.stages.graph import Graph
from robustdeploy.stages.preparation import check_images, check_same_target
from robustdeploy.stages.session import Session

EXPORTING = ("export", "lower")
MEASURING = ("attack", "compile", "measure")


def with_asked(run: Run, asked: Recipe) -> Recipe:
    """Return the run's recipe with what may be asked for of its nets, once they are trained, at any time."""
    return run.recipe.model_copy(
        update={"evaluate": asked.evaluate, "baseline": asked.baseline, "precisions": asked.precisions}
    )


def measured_on(
    run: Run, goals: Sequence[Target], asked: Recipe, force: bool, callback: Callback
) -> tuple[list[str], dict[str, str]]:
    """Export to every target and measure there; return the evaluations, and of the subjects that were lost the reason.

    What is found in torch is found once, for the first target that replays it.
    """
    names: list[str] = []
    lost: dict[str, str] = {}
    errors: list[RobustdeployError] = []
    with Session(run, with_asked(run, asked), trust=[asked.net], callback=callback) as session, working(run):
        graph = Graph(session, run.net)
        runner = Runner(run, (*EXPORTING, *MEASURING), force, callback)
        for goal in goals:
            try:
                if not force:
                    check_same_target(run, goal)
                exported(runner, graph, goal)
                for measure in graph.measures(goal):
                    check_images(measure, anew=force)
                    runner.make(measure)
                names.append(evaluation_name(goal.name, session.label))
            # A signal asks for all targets to stop, and not for the next one to begin.
            except Interrupted:
                raise
            except RobustdeployError as error:
                # With one target there is nothing to go on with, and a report of nothing would hide the reason.
                if len(goals) == 1:
                    raise
                errors.append(error)
                subjects = [str(measure.subject) for measure in graph.measures(goal)]
                lost |= dict.fromkeys(subjects, _first_line(error))
                # In the ledger, since a report that is written later must still say that these were to be measured.
                run.enter_lost(subjects, _first_line(error))
                for measure in graph.measures(goal):
                    callback.event(Event("lost", measure.name, measure.place))
                callback.say(f"{goal.name} is lost: {error}")
    if not names:
        raise errors[0]
    return names, lost


def exported(runner: Runner, graph: Graph, goal: Target) -> list[Finished[OnnxRecord]]:
    """Make all files that a target takes, and say what a user of it should know of the run's own net."""
    stages = graph.exports(goal)
    made = [runner.make(stage) for stage in stages]
    for stage in graph.dense_files(goal):
        runner.make(stage)
    for note in target_notes(goal, runner.run.recipe.budget, runner.make(stages[0].net).record):
        runner.callback.say(f"note: {note}")
    return made


def _first_line(error: RobustdeployError) -> str:
    return str(error).partition("\n")[0][:500]
