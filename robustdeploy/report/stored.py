"""Stored reports: find the report of an evaluation in a run, and believe it only as far as the run bears it out."""

from __future__ import annotations

from pathlib import Path

from robustdeploy.core.report import Report
from robustdeploy.core.settings import is_own, target_of
from robustdeploy.core.subject import subject_from
from robustdeploy.engine.evaluations import check_evaluated, evaluation_named, evaluations_in, evaluations_named
from robustdeploy.engine.ledger import LEDGER
from robustdeploy.engine.lineage import report_command
from robustdeploy.engine.manifest import FILE_NAME
from robustdeploy.engine.places import KINDS, NETS, evaluation_of
from robustdeploy.engine.run import Run
from robustdeploy.engine.verify import evidence_problems, held_by, written_problems
from robustdeploy.errors import ArtifactError, UsageError
from robustdeploy.report.judge import judged_by
from robustdeploy.report.load import load_report


def read_report(run: Run, target: str | None = None) -> Report:
    """Return the run's report, that of the recipe's own evaluations unless ``target`` names another.

    One that the ledger does not have in these words, or that tells of what is there no more, is an ArtifactError.
    """
    name = "" if target is None else evaluation_named(target)
    path, alone = run.root / "report.json", run.root / f"report-{name}.json"
    how = f"robustdeploy report {run.root}{'' if is_own(name) else f' --target {name}'}"
    if not is_own(name) or (alone.exists() and not path.exists()):
        path = alone
    if not path.exists():
        evaluations_named(run, [name] if name else ())
        raise UsageError(f"{run.root} has no report{f' on {name}' if name else ''} yet: run `{how}` first")
    loaded = believed(path)
    if name and target_of(name) not in loaded.targets:
        check_evaluated(run, name)
        if alone.exists():
            return believed(alone)
        raise UsageError(f"{path} is of {', '.join(loaded.targets)} alone; `{how}` tells of {name} too")
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
    # The file first and its evidence second: an edited report may claim any evidence.
    again = f"`{report_command(held.root, path.name)}` writes it again"
    if problems := written_problems(held, path.name):
        raise ArtifactError(*(f"{problem}; {again}" for problem in problems))
    loaded = load_report(path)
    if problems := evidence_problems(held, loaded, path.name):
        raise ArtifactError(*problems)
    return loaded


def is_of_run(path: Path) -> bool:
    """Whether a report lies in a run's folder; one whose ledger was taken away is a run's all the same."""
    folder = path.resolve().parent
    places = (f"{kind}/*" if kind == NETS else f"{kind}/*/*" for kind in KINDS)
    # Without this, deleting the ledger would make every report believable.
    return (folder / LEDGER).exists() or any(True for at in places for _ in folder.glob(f"{at}/{FILE_NAME}"))


def other_evaluations(run: Run, report: Report) -> list[str]:
    """Return the names of the evaluations that a report says nothing of."""
    return sorted(set(evaluations_in(run)) - {evaluation_of(each.evaluation) for each in report.deployed})
