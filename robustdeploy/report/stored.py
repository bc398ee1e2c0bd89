"""Stored reports: find the report of an evaluation in a run, and believe it only as far as the run bears it out."""

from __future__ import annotations

from pathlib import Path

from robustdeploy.core.load import load_target
from robustdeploy.core.manifest import FILE_NAME
from robustdeploy.core.report import Report
from robustdeploy.core.run import Run
from robustdeploy.core.settings import DEVICE, is_own, report_suffix
from robustdeploy.core.verify import LEDGER, evidence_problems, held_by, written_problems
from robustdeploy.errors import ArtifactError, UsageError
from robustdeploy.report.load import load_report


def evaluation_named(run: Run, target: str | None) -> str:
    """Return the evaluation that ``target`` names, by name or as a target's file; the newest own one when left out."""
    if target is None:
        return latest_target(run)
    return load_target(target).name if Path(target).suffix in (".yaml", ".yml") else target


def latest_target(run: Run) -> str:
    """Return the target that was evaluated last with the recipe's own settings."""
    found = {path.parent.name: path.stat().st_mtime for path in (run.root / DEVICE).glob("*/manifest.json")}
    own = [name for name in found if is_own(name)]
    if not own and found:
        others = ", ".join(sorted(found))
        raise UsageError(
            f"{run.root} was evaluated under other settings than its recipe's alone ({others}); run `robustdeploy "
            "evaluate` without any, or name one of these with --target"
        )
    if not own:
        raise UsageError(f"{run.root} has no finished evaluation yet: run `robustdeploy evaluate` first")
    return max(own, key=lambda name: found[name])


def read_report(run: Run, target: str | None = None) -> Report:
    """Return the run's report, that of the recipe's own evaluation unless ``target`` names another.

    One that the ledger does not have in these words, or that tells of what is there no more, is an ArtifactError.
    """
    name = None if target is None else evaluation_named(run, target)
    path = run.root / f"report{report_suffix(name or '')}.json"
    if not path.exists():
        how = "" if name is None else f" --target {name}"
        raise UsageError(f"{run.root} has no report{how} yet: run `robustdeploy report{how}` first")
    loaded = believed(path)
    if name is not None and (loaded.evaluation or loaded.target) != name:
        raise UsageError(f"{path} is of {loaded.target}; `robustdeploy report --target {name}` writes that of {name}")
    return loaded


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
    stages = ("train", "dense", "export/*", f"{DEVICE}/*")
    return (folder / LEDGER).exists() or any(True for at in stages for _ in folder.glob(f"{at}/{FILE_NAME}"))


def other_evaluations(run: Run, report: Report) -> list[str]:
    """Return the names of the evaluations that a report says nothing of."""
    every = {path.parent.name for path in (run.root / DEVICE).glob("*/manifest.json")}
    return sorted(every - {report.evaluation or report.target})
