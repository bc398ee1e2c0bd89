"""Evaluations: which of them a run has, by name, and which of its targets were to be measured and are not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robustdeploy.core.complaint import did_you_mean
from robustdeploy.core.load import load_target
from robustdeploy.core.settings import DEVICE, is_own, label_in, target_of
from robustdeploy.core.shipped import shipped_names
from robustdeploy.engine.lineage import command_for
from robustdeploy.engine.manifest import FILE_NAME
from robustdeploy.engine.run import Run
from robustdeploy.errors import UsageError


def evaluations_named(run: Run, targets: Sequence[str] = ()) -> list[str]:
    """Return the finished evaluations that ``targets`` name; all of the recipe's own without any.

    Own evaluations and those under other settings cannot be told together: a UsageError, as is one that is not there.
    """
    names = list(dict.fromkeys(map(evaluation_named, targets))) or own_evaluations(run)
    if len(names) > 1 and any(label_in(name) for name in names):
        raise UsageError(f"{' and '.join(names)} differ in their settings, so no report tells them together; name one")
    for name in names:
        check_evaluated(run, name)
    return names


def evaluation_named(target: str) -> str:
    """Return the name of the evaluation that ``target`` names, by itself or as a target's file."""
    return load_target(target).name if Path(target).suffix in (".yaml", ".yml") else target


def evaluations_in(run: Run) -> list[str]:
    """Return the names of all finished evaluations, whatever their settings, the first one first."""
    found = {path.name: path / FILE_NAME for path in (run.root / DEVICE).glob("*/") if (path / FILE_NAME).exists()}
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
    exported = (run.root / "export" / target / FILE_NAME).exists()
    if not exported and target not in shipped_names("targets"):
        raise UsageError(f"{run.root} has nothing of a target '{target}'{did_you_mean(target, found)}{there}")
    first = "" if exported else f"`{command_for(run.root, f'export/{target}')}` and "
    raise UsageError(
        f"{run.root} has no finished evaluation on {target} yet{there}: run {first}"
        f"`{command_for(run.root, f'{DEVICE}/{target}')}` first"
    )


def unfinished(run: Run) -> dict[str, str]:
    """Return the targets that were to be measured and are not, each with the reason or the command that goes on."""
    begun = [path.name for path in (run.root / DEVICE).glob("*/") if not (path / FILE_NAME).is_file()]
    told = {
        name: f"its evaluation was not finished; `{command_for(run.root, f'{DEVICE}/{name}')}` goes on"
        for name in sorted(begun)
        if is_own(name)
    }
    for record in run.ledger.records():
        if record.event == "lost":
            told[str(record.data["target"])] = str(record.data["why"])
        elif record.event == "sealed":
            told.pop(str(record.data["folder"]).removeprefix(f"{DEVICE}/"), None)
    return told
