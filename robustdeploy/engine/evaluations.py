"""Evaluations: which of them a run has, by name, and which of its targets were to be measured and are not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robustdeploy.core.complaint import did_you_mean
from robustdeploy.core.load import load_target
from robustdeploy.core.settings import is_own, label_in, target_of
from robustdeploy.core.shipped import shipped_names
from robustdeploy.core.subject import FP32, Subject
from robustdeploy.engine.lineage import command_for, export_command
from robustdeploy.engine.manifest import FILE_NAME
from robustdeploy.engine.places import BOARDS, ENGINES, board_place, evaluation_of, kind_of, subject_of
from robustdeploy.engine.run import Run
from robustdeploy.errors import UsageError


def evaluations_named(run: Run, targets: Sequence[str] = ()) -> list[str]:
    """Return the finished evaluations that ``targets`` name; all of the recipe's own without any.

    Evaluations under unlike settings cannot be told together: a UsageError, as is one that is not there.
    """
    names = list(dict.fromkeys(map(evaluation_named, targets))) or own_evaluations(run)
    if len({label_in(name) for name in names}) > 1:
        raise UsageError(f"{' and '.join(names)} differ in their settings, so no report tells them together; name one")
    for name in names:
        check_evaluated(run, name)
    return names


def evaluation_named(target: str) -> str:
    """Return the name of the evaluation that ``target`` names, by itself or as a target's file."""
    return load_target(target).name if Path(target).suffix in (".yaml", ".yml") else target


def evaluations_in(run: Run) -> list[str]:
    """Return the names of all finished evaluations, whatever their settings, the first one first."""
    paths = (run.root / BOARDS / run.net).glob(f"*/{FILE_NAME}")
    found = {evaluation_of(path.parent.relative_to(run.root).as_posix()): path for path in paths}
    # A place does not say when it was made. Its manifest is written once, at the end, so that file's time does.
    return sorted(found, key=lambda name: (found[name].stat().st_mtime, name))


def own_evaluations(run: Run) -> list[str]:
    """Return the targets that were evaluated with the recipe's own settings, the one that was evaluated first first."""
    found = evaluations_in(run)
    own = [name for name in found if is_own(name)]
    if not own and found:
        raise UsageError(
            f"{run.root} was evaluated under other settings than its recipe's alone ({', '.join(sorted(found))}); run "
            f"`robustdeploy evaluate {run.root}` without any, or name one of these with --target"
        )
    if not own:
        raise UsageError(f"{run.root} has no finished evaluation yet: run `robustdeploy evaluate {run.root}` first")
    return own


def check_evaluated(run: Run, name: str) -> None:
    """Refuse the name of an evaluation that the run does not have, and say which it has or how it is made."""
    found, target = evaluations_in(run), target_of(name)
    if name in found:
        return
    there = f" (there: {', '.join(sorted(found))})" if found else ""
    if target in found:
        raise UsageError(
            f"{run.root} has no evaluation '{name}'{did_you_mean(name, found)}{there}; `robustdeploy evaluate "
            f"{run.root} --target {target} --set evaluate.…` makes one under other settings, and says its name"
        )
    built = sorted((run.root / ENGINES / run.net).glob(f"*@{target}/{FILE_NAME}"))
    subject = subject_of(built[0].parent.relative_to(run.root).as_posix()) if built else Subject(run.net, FP32, target)
    if not built and target not in shipped_names("targets"):
        raise UsageError(f"{run.root} has nothing of a target '{target}'{did_you_mean(target, found)}{there}")
    first = "" if built else f"`{export_command(run.root, subject)}` and "
    raise UsageError(
        f"{run.root} has no finished evaluation on {target} yet{there}: run {first}"
        f"`{command_for(run.root, board_place(subject))}` first"
    )


def unfinished(run: Run) -> dict[str, str]:
    """Return the subjects that were to be measured and are not, each with the reason or the command that goes on."""
    places = (path.relative_to(run.root).as_posix() for path in (run.root / BOARDS).glob("*/*/"))
    begun = [place for place in places if not (run.root / place / FILE_NAME).is_file()]
    told = {
        str(subject_of(place)): f"its evaluation was not finished; `{command_for(run.root, place)}` goes on"
        for place in sorted(begun)
        if is_own(evaluation_of(place))
    }
    # A target may be lost before its folder exists. A later seal outdates the loss, so the order of events matters.
    for record in run.ledger.records():
        if record.event == "lost":
            told |= {str(subject): str(record.data["why"]) for subject in record.data["subjects"]}
        elif record.event == "sealed" and kind_of(place := str(record.data["folder"])) == BOARDS:
            told.pop(str(subject_of(place)) if is_own(evaluation_of(place)) else "", None)
    return told
