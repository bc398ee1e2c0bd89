"""Stored reports: find the report of an evaluation in a run, and believe it only as far as the run bears it out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from robustdeploy.core.load import load_target
from robustdeploy.core.report import Report
from robustdeploy.core.settings import is_own, label_in, report_suffix, target_of
from robustdeploy.core.subject import subject_from
from robustdeploy.engine.ledger import LEDGER
from robustdeploy.engine.manifest import FILE_NAME
from robustdeploy.engine.places import BOARDS, KINDS, NETS, evaluation_of, kind_of, subject_of
from robustdeploy.engine.run import Run
from robustdeploy.engine.verify import evidence_problems, held_by, written_problems
from robustdeploy.errors import ArtifactError, UsageError
from robustdeploy.report.judge import judged_by
from robustdeploy.report.load import load_report


def evaluations_named(run: Run, targets: Sequence[str] = ()) -> list[str]:
    """Return the evaluations that ``targets`` name, by name or as targets' files; all of the recipe's own without any.

    Own evaluations and those under other settings cannot be told together: a UsageError.
    """
    found = [load_target(each).name if Path(each).suffix in (".yaml", ".yml") else each for each in targets]
    names = list(dict.fromkeys(found)) or own_evaluations(run)
    if len(names) > 1 and any(label_in(name) for name in names):
        raise UsageError(f"{' and '.join(names)} differ in their settings, so no report tells them together; name one")
    return names


def own_evaluations(run: Run) -> list[str]:
    """Return the targets that were evaluated with the recipe's own settings, the one that was evaluated first first."""
    found: dict[str, float] = {}
    for path in (run.root / BOARDS).glob("*/*/manifest.json"):
        name = evaluation_of(path.parent.relative_to(run.root).as_posix())
        found[name] = min(path.stat().st_mtime, found.get(name, math.inf))
    own = [name for name in found if is_own(name)]
    if not own and found:
        others = ", ".join(sorted(found))
        raise UsageError(
            f"{run.root} was evaluated under other settings than its recipe's alone ({others}); run `robustdeploy "
            "evaluate` without any, or name one of these with --target"
        )
    if not own:
        raise UsageError(f"{run.root} has no finished evaluation yet: run `robustdeploy evaluate` first")
    return sorted(own, key=lambda name: (found[name], name))


def unfinished(run: Run) -> dict[str, str]:
    """Return the subjects that were to be measured and are not, each with the reason or the command that goes on."""
    places = (path.relative_to(run.root).as_posix() for path in (run.root / BOARDS).glob("*/*/"))
    begun = [place for place in places if not (run.root / place / FILE_NAME).is_file()]
    told = {
        str(subject_of(place)): "its evaluation was not finished; "
        f"`robustdeploy evaluate {run.root} --target {evaluation_of(place)}` goes on"
        for place in sorted(begun)
        if is_own(evaluation_of(place))
    }
    for record in run.ledger.records():
        if record.event == "lost":
            told |= {str(subject): str(record.data["why"]) for subject in record.data["subjects"]}
        elif record.event == "sealed" and kind_of(place := str(record.data["folder"])) == BOARDS:
            told.pop(str(subject_of(place)) if is_own(evaluation_of(place)) else "", None)
    return told


def read_report(run: Run, target: str | None = None) -> Report:
    """Return the run's report, that of the recipe's own evaluations unless ``target`` names another.

    One that the ledger does not have in these words, or that tells of what is there no more, is an ArtifactError.
    """
    name = "" if target is None else evaluations_named(run, [target])[0]
    path = run.root / f"report{report_suffix(name)}.json"
    if not path.exists():
        how = "" if is_own(name) else f" --target {name}"
        raise UsageError(f"{run.root} has no report{how} yet: run `robustdeploy report{how}` first")
    loaded = believed(path)
    if name and target_of(name) not in loaded.targets:
        there = ", ".join(loaded.targets)
        raise UsageError(f"{path} is of {there}; `robustdeploy report --target {name}` writes that of {name}")
    return on_target(loaded, target_of(name)) if name else loaded


def on_target(report: Report, target: str) -> Report:
    """Return what a report says of one target and of the reference, judged by its own rules."""

    def stays(subject: str | None) -> bool:
        its = None if subject is None else subject_from(subject)
        return its is None or not its.deployed or its.place == target

    parts = ("subjects", "measurements", "diagnostics", "omissions")
    kept = {part: tuple(each for each in getattr(report, part) if stays(each.subject)) for part in parts}
    return judged_by(report.model_copy(update=kept), report.rules)


def believed(path: Path) -> Report:
    """Return the report in ``path``; one that its run does not bear out is an ArtifactError.

    A file that lies in no run's folder is taken as it is.
    """
    if not is_of_run(path):
        return load_report(path)
    path = path.resolve()
    held = held_by(path.parent)
    if problems := written_problems(held, path.name):
        raise ArtifactError(*(f"{problem}; `robustdeploy report` writes it again" for problem in problems))
    loaded = load_report(path)
    if problems := evidence_problems(held, loaded):
        raise ArtifactError(*problems)
    return loaded


def is_of_run(path: Path) -> bool:
    """Whether a report lies in a run's folder; one whose ledger was taken away is a run's all the same."""
    folder = path.resolve().parent
    places = (f"{kind}/*" if kind == NETS else f"{kind}/*/*" for kind in KINDS)
    return (folder / LEDGER).exists() or any(True for at in places for _ in folder.glob(f"{at}/{FILE_NAME}"))


def other_evaluations(run: Run, report: Report) -> list[str]:
    """Return the names of the evaluations that a report says nothing of."""
    paths = (run.root / BOARDS).glob("*/*/manifest.json")
    every = {evaluation_of(path.parent.relative_to(run.root).as_posix()) for path in paths}
    return sorted(every - {evaluation_of(each.evaluation) for each in report.deployed})
