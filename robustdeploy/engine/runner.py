"""The runner: it alone knows how stages are skipped, resumed, sealed and told of."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from robustdeploy.core.callback import SILENT, Callback, Event, EventKind
from robustdeploy.core.complaint import complaint
from robustdeploy.core.files import canonical_json
from robustdeploy.core.interrupts import catch_signals
from robustdeploy.core.plain import plain
from robustdeploy.engine.lineage import command_for, stale
from robustdeploy.engine.manifest import FILE_NAME, Manifest
from robustdeploy.engine.run import Run
from robustdeploy.engine.seal import PARTS, Slot
from robustdeploy.engine.stage import DeviceBound, Finished, R, Stage, Work, inputs_from
from robustdeploy.errors import ArtifactError, Interrupted, UsageError


@contextmanager
def working(run: Run) -> Iterator[None]:
    """Hold the run for this process, and let a signal end the work at a safe point."""
    with catch_signals(), run.lock():
        yield


@dataclass
class Runner:
    """Makes stages of one run, and all that they need. The run must be held (``working``)."""

    run: Run
    makes: Collection[str] = ()
    """Names of the stages that may be run; all others must be finished and up to date."""
    force: bool = False
    """Do what may be run again, each stage once."""
    callback: Callback = SILENT
    _done: dict[str, Finished[Any]] = field(default_factory=dict, init=False)

    def make(self, stage: Stage[R]) -> Finished[R]:
        """Return what ``stage`` makes, after making what it needs; what is done and unchanged is not done again."""
        if stage.place not in self._done:
            before = {need.stage.place: self.make(need.stage) for need in stage.needs}
            if stage.name in self.makes:
                self._bring_up_to_date(stage, before)
            else:
                self._check_up_to_date(stage)
            self._done[stage.place] = held(self.run, stage.place, stage.record)
        return self._done[stage.place]

    def _bring_up_to_date(self, stage: Stage[Any], before: dict[str, Finished[Any]]) -> None:
        # To hash a data set takes its time, so it is done once for both of the slots below.
        own = dict(stage.inputs())
        slot = slot_of(self.run, stage, {**inputs_from(stage, before), **own})
        if self.force:
            # What an interrupted call has left would be resumed from, and that is not making it again.
            slot.clear()
        elif (manifest := slot.sealed()) is not None:
            self._tell("skipped", stage, f"done already, sealed {manifest.started[:19]}Z and unchanged; skipped")
            return
        # Only a stage that really runs asks for its device: to skip one, no board has to be reachable.
        for need in stage.needs:
            before[need.stage.place] = self._fitting(need.stage)
        # A need that was made again for another device has other outputs, and with them this stage has another
        # fingerprint.
        slot = slot_of(self.run, stage, {**inputs_from(stage, before), **own})
        # Hours may be spent again, so it is told what for.
        there = self.run.manifests().get(stage.place)
        why = "" if there is None else f"done again: {'; '.join(unlike(there, stage.settings, slot.inputs))}"
        slot.begin()
        self._run(stage, slot, before, why)

    def _run(self, stage: Stage[Any], slot: Slot, before: Mapping[str, Finished[Any]], why: str = "") -> None:
        work = Work(stage.place, slot.folder, slot.fingerprint, self.run.ledger, self.callback, before)
        self._tell("resumed" if any(slot.folder.iterdir()) else "begun", stage, why)
        try:
            record = stage.run(work)
        except Exception as error:
            self._tell("interrupted" if isinstance(error, Interrupted) else "failed", stage)
            raise
        slot.seal([work.folder / name for name in work.outputs], record.model_dump(mode="json"))
        shutil.rmtree(work.folder / PARTS, ignore_errors=True)  # what they went into is sealed
        self._tell("sealed", stage)

    def _tell(self, kind: EventKind, stage: Stage[Any], text: str = "") -> None:
        self.callback.event(Event(kind, stage.name, stage.place, text))

    def _fitting(self, stage: Stage[Any]) -> Finished[Any]:
        """Return what a stage has made, made again where it is tied to a device that is another one by now."""
        done = self._done[stage.place]
        if isinstance(stage, DeviceBound) and (why := stage.misfit(done)):
            self._tell("misfit", stage, f"done again, since {why}")
            before = {need.stage.place: self._done[need.stage.place] for need in stage.needs}
            slot = slot_of(self.run, stage, {**inputs_from(stage, before), **stage.inputs()})
            slot.clear()
            self._run(stage, slot, before)
            done = self._done[stage.place] = held(self.run, stage.place, stage.record)
        return done

    def _check_up_to_date(self, stage: Stage[Any]) -> None:
        # A command makes its own stages alone. `evaluate` never starts hours of training because a file is out of date.
        check_finished(self.run.root, stage.place)
        made = self.run.manifests()
        if stage.place in made and (problems := stale(self.run.root, stage.place, made, self.run.recipe)):
            raise ArtifactError(*problems)


def slot_of(run: Run, stage: Stage[Any], inputs: Mapping[str, str]) -> Slot:
    """Return where a stage with these inputs is sealed."""
    return run.slot(stage.name, stage.place, inputs, stage.settings)


def check_finished(root: Path, place: str, command: str = "") -> None:
    """Refuse to go on where the stage in ``place`` was not finished, and name the ``command`` that makes it."""
    if not (root / place / FILE_NAME).exists():
        raise UsageError(f"{root} has no finished {place} stage yet: run `{command or command_for(root, place)}` first")


def held(run: Run, place: str, kind: type[R]) -> Finished[R]:
    """Return what lies in ``place``, which was finished, after checking every file of it."""
    with made_again(run, place):
        manifest = run.sealed(place)
        record = record_from(manifest, kind, f"{run.root / place / FILE_NAME}")
    return Finished(run.root / place, manifest, record)


@contextmanager
def made_again(run: Run, place: str) -> Iterator[None]:
    """Add to an ArtifactError of the block the command that makes what lies in ``place`` again."""
    try:
        yield
    except ArtifactError as error:
        again = f"`{command_for(run.root, place)} --force` makes it again"
        raise ArtifactError(*(f"{line}; {again}" for line in error.args)) from None


def record_from(manifest: Manifest, kind: type[R], where: str) -> R:
    """Return what a stage found, by its manifest; one that cannot have been written so is an ArtifactError."""
    try:
        # Facts were read from JSON, which has no tuples, enums or paths. Only pydantic's JSON mode takes lists and text
        # for them under strict types.
        return kind.model_validate_json(canonical_json(manifest.facts))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, ("facts", *first["loc"])))
        raise ArtifactError(f"{where}: {name} {complaint(first, kind)}, so it was edited") from error


def unlike(manifest: Manifest, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> Sequence[str]:
    """Say in which settings and inputs a finished stage differs from what is asked for now."""
    told = [f"{name} is {now!r}, was {was!r}" for name, was, now in _differing(manifest.parameters, plain(settings))]
    # Over both sides: an input that is new or gone makes as much of a difference as a changed one.
    known = {*manifest.inputs, *inputs}
    return [*told, *(f"another {name}" for name in sorted(known) if manifest.inputs.get(name) != inputs.get(name))]


def _differing(was: Any, now: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*was, *now]):
            yield from _differing(was.get(key), now.get(key), f"{prefix}.{key}" if prefix else str(key))
    elif was != now:
        yield prefix, was, now
