"""What a stage is: it says what it needs and what decides its result, and turns that into a typed record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from robustdeploy.core.callback import Callback
from robustdeploy.core.records import Record
from robustdeploy.engine.artifact import Artifact
from robustdeploy.engine.ledger import Ledger
from robustdeploy.engine.manifest import FILE_NAME, Manifest
from robustdeploy.errors import ArtifactError

R = TypeVar("R", bound=Record)
R_co = TypeVar("R_co", bound=Record, covariant=True)


@dataclass(frozen=True)
class Finished(Generic[R_co]):
    """A finished stage: its folder, the manifest that seals it, and what it found."""

    folder: Path
    manifest: Manifest
    record: R_co

    def artifact(self, name: str) -> Artifact:
        """Return the output ``name``; ArtifactError when the stage has none of that name."""
        if name not in self.manifest.outputs:
            known = ", ".join(sorted(self.manifest.outputs))
            raise ArtifactError(f"{self.folder} has no output {name}; it has {known}")
        return Artifact(path=self.folder / name, sha256=self.manifest.outputs[name])

    @property
    def manifest_path(self) -> Path:
        """Where the manifest lies."""
        return self.folder / FILE_NAME


@dataclass
class Work:
    """What a stage is given when it runs: its folder, what was made for it, and where to say how far it is."""

    place: str
    """The stage's folder as the run calls it."""
    folder: Path
    """The same on the disk; what an interrupted call has left there is still there."""
    mark: str
    """The stage's fingerprint; what is kept to resume from carries it."""
    ledger: Ledger
    callback: Callback
    made: Mapping[str, Finished[Any]]
    """What the stages that it needs have made, by their places."""
    outputs: list[str] = field(default_factory=list)
    """Files that it leaves, by path in the folder; the runner seals them."""

    def of(self, stage: Stage[R]) -> Finished[R]:
        """Return what a stage that this one needs has made."""
        return self.made[stage.place]

    def keep(self, *names: str) -> None:
        """Name files of the folder that are part of the result."""
        self.outputs += names


@dataclass(frozen=True)
class Need:
    """A stage that another one rests on, and the files of it that are read; none named means all."""

    stage: Stage[Any]
    files: tuple[str, ...] = ()


class Stage(Protocol[R_co]):
    """One step from a recipe to its report. Small, frozen, and without an effect until it runs."""

    @property
    def name(self) -> str:
        """What it does, in one word: ``train``, ``export``."""
        ...

    @property
    def place(self) -> str:
        """Its folder in the run."""
        ...

    @property
    def record(self) -> type[R_co]:
        """The type of what it finds."""
        ...

    @property
    def needs(self) -> Sequence[Need]:
        """Stages that come before it."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """The part of the recipe and the target that decides its result."""
        ...

    def inputs(self) -> Mapping[str, str]:
        """SHA-256 of all that it reads besides what other stages made, by name; may take its time."""
        ...

    def run(self, work: Work) -> R_co:
        """Do the work, resuming what an interrupted call has left, and return what was found."""
        ...


@runtime_checkable
class DeviceBound(Protocol):
    """A stage whose result is tied to a device, which is looked at only when the result is needed."""

    def misfit(self, done: Finished[Any]) -> str:
        """Say why what is there does not fit the device as it is now; nothing where it does."""
        ...


def inputs_from(stage: Stage[Any], made: Mapping[str, Finished[Any]]) -> dict[str, str]:
    """Return the SHA-256 of the files that a stage reads of others, by their paths in the run."""
    found = {}
    for need in stage.needs:
        outputs = made[need.stage.place].manifest.outputs
        for name in need.files or sorted(outputs):
            if name in outputs:
                found[f"{need.stage.place}/{name}"] = outputs[name]
    return found


def in_order(goals: Sequence[Stage[Any]]) -> Iterator[Stage[Any]]:
    """Yield each stage that the goals rest on once, and after all that it needs itself."""
    # Each stage builds its own copy of what it needs, so one stage appears as several objects. Its place identifies it.
    told: set[str] = set()

    def visit(stage: Stage[Any]) -> Iterator[Stage[Any]]:
        for need in stage.needs:
            yield from visit(need.stage)
        if stage.place not in told:
            told.add(stage.place)
            yield stage

    for goal in goals:
        yield from visit(goal)
