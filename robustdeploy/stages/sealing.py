"""What stages share: the run is locked, what is sealed is skipped, what is damaged or out of date is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from robustdeploy.core.interrupts import catch_signals
from robustdeploy.core.plain import plain
from robustdeploy.core.settings import differences
from robustdeploy.core.talk import Talk
from robustdeploy.core.target import Target
from robustdeploy.engine.artifact import Sealed
from robustdeploy.engine.facts import check_facts
from robustdeploy.engine.lineage import chain_problems, command_for
from robustdeploy.engine.manifest import FILE_NAME
from robustdeploy.engine.run import Run
from robustdeploy.engine.seal import Stage
from robustdeploy.errors import ArtifactError, UsageError
from robustdeploy.preflight import check_finished


@contextmanager
def working(run: Run) -> Iterator[None]:
    """Hold the run for this process, and let a signal end the work at a safe point."""
    with catch_signals(), run.lock():
        yield


def is_due(stage: Stage, force: bool, talk: Talk) -> bool:
    """Whether a stage has work to do; ``force`` clears what it made before."""
    if force:
        stage.clear()
    elif (manifest := stage.sealed()) is not None:
        talk.say(f"{stage.name}: done already, sealed {manifest.started[:19]}Z and unchanged; skipped")
        return False
    return True


def sealed_stage(run: Run, place: str) -> Sealed:
    """Return a finished stage after checking every file it made."""
    check_finished(run.root, place)
    try:
        manifest = run.sealed(place)
        check_facts(place, manifest.facts, str(run.root / place / FILE_NAME))
        return Sealed(run.root / place, manifest)
    except ArtifactError as error:
        again = f"`{command_for(run.root, place)} --force` makes it again"
        raise ArtifactError(*(f"{line}; {again}" for line in error.args)) from None


def check_up_to_date(run: Run, *places: str) -> None:
    """Raise an ArtifactError that names every one of ``places`` that was made from what is there no more."""
    if problems := list(chain_problems(run.root, places, run.manifests(), run.recipe)):
        raise ArtifactError(*problems)


def check_same_target(run: Run, goal: Target) -> None:
    """Refuse a target that another definition of the same name was exported for: its evidence would be replaced."""
    held = run.manifests().get(f"export/{goal.name}")
    changed = list(differences(held.parameters.get("target", {}), plain(goal))) if held else []
    if changed:
        told = "; ".join(f"{each.field} {each.recipe}, now {each.used}" for each in changed)
        raise UsageError(
            f"{run.root} has results of another target called {goal.name} ({told}); give yours another name, or "
            f"replace them with `robustdeploy export {run.root} --target … --force`"
        )
