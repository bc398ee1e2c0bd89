"""The plan: what would be done, skipped or done again, and why, before anything is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from robustdeploy.engine.manifest import fingerprint
from robustdeploy.engine.run import Run
from robustdeploy.engine.runner import held, slot_of, unlike
from robustdeploy.engine.stage import DeviceBound, Finished, Stage, in_order, inputs_from

Action = Literal["do", "go on", "do again", "skip"]


@dataclass(frozen=True)
class Step:
    """One stage of a plan."""

    stage: str
    place: str
    """Its folder in the run."""
    needs: tuple[str, ...]
    """Places of the stages that it rests on."""
    action: Action
    why: str


def plan(run: Run, goals: Sequence[Stage[Any]], *, force: bool = False) -> list[Step]:
    """Return one step for each stage that the goals rest on, in the order in which they would be made.

    Nothing is written and no board is asked. Damage to what is there is an ArtifactError, as it would be when it is
    made.
    """
    steps: dict[str, Step] = {}
    made: dict[str, Finished[Any]] = {}
    for stage in in_order(goals):
        needs = tuple(dict.fromkeys(need.stage.place for need in stage.needs))
        # Its inputs do not exist before that place is made, so its seal cannot be compared with anything yet.
        anew = next((place for place in needs if steps[place].action != "skip"), None)
        action, why = _step(run, stage, made, anew, force)
        steps[stage.place] = Step(stage.name, stage.place, needs, action, why)
        if action == "skip":
            made[stage.place] = held(run, stage.place, stage.record)
    return list(steps.values())


def _step(
    run: Run, stage: Stage[Any], made: dict[str, Finished[Any]], anew: str | None, force: bool
) -> tuple[Action, str]:
    """Say what becomes of one stage; ``anew`` is a place it rests on that is made before it."""
    manifest = run.manifests().get(stage.place)
    if manifest is None:
        # A kill before any work leaves an empty folder, and there is nothing in it to go on from.
        begun = (run.root / stage.place).is_dir() and any((run.root / stage.place).iterdir())
        return ("go on", "it was interrupted") if begun and not force else ("do", "it was not done yet")
    if force:
        return "do again", "that is asked for"
    if anew is not None:
        return "do again", f"{anew} is made before it"
    inputs = {**inputs_from(stage, made), **stage.inputs()}
    slot = slot_of(run, stage, inputs)
    # This hashes every file, as the run itself would: damage shows in the plan and not after hours of work.
    if slot.sealed() is not None:
        tied = ", and is looked at again if the board is needed" if isinstance(stage, DeviceBound) else ""
        return "skip", f"it was sealed {manifest.started[:19]}Z{tied}"
    # Without a seal only another fingerprint is left: a missing manifest is told above, and damage is an error.
    assert manifest.fingerprint != fingerprint(stage.name, inputs, slot.parameters)
    return "do again", "; ".join(unlike(manifest, stage.settings, inputs)) or "it was made by another stage"
