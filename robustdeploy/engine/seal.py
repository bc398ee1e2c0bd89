"""The seal of a stage: its folder in the run, whether it is already done, and the manifest that says so."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from robustdeploy.core.files import (
    atomic_write_text,
    hash_or_reason,
    lies_in,
    make_folder,
    sha256_of_text,
    storage_errors,
    sync_file,
)
from robustdeploy.engine.ledger import Ledger, Record, utc_now
from robustdeploy.engine.manifest import (
    FILE_NAME,
    Manifest,
    changed_outputs,
    commit_here,
    fingerprint,
    hashes_of,
    loaded_versions,
    producer,
    read_manifest,
)
from robustdeploy.errors import ArtifactError, UsageError

PARTS = "parts"
"""Folder of sealed pieces that an interrupted stage goes on from; gone when the stage is sealed."""


def sealed_manifests(records: Sequence[Record]) -> dict[str, str]:
    """Return the SHA-256 of the manifest of every folder that is sealed, by the ledger."""
    # The last event of a folder counts: one that was emptied and never made again has no seal.
    last = {str(r.data.get("folder")): r for r in records if r.event in ("sealed", "unsealed")}
    return {place: str(r.data.get("manifest")) for place, r in last.items() if r.event == "sealed"}


def place_problems(root: Path, place: str, expected: str | None) -> list[str]:
    """Compare what lies in ``place`` of the run at ``root`` with its ledger; one sentence per problem."""
    if not lies_in(root / place, root):
        return [f"{root / place} leads out of the run through a link, so it is not believed; remove the link"]
    return seal_problems(root / place, expected)


def seal_problems(folder: Path, expected: str | None) -> list[str]:
    """Compare a folder's manifest with the ledger's, and its outputs with the manifest; one sentence per problem."""
    path = folder / FILE_NAME
    if not path.exists():
        return [f"{path} is missing, though the ledger has it: the stage was interrupted or the file removed"]
    # A manifest proves nothing by itself: who edits an output can also write a manifest that fits it.
    if expected is None:
        return [f"{path} is not in the ledger: the manifest or ledger.jsonl was edited, cut or replaced"]
    problems = []
    if (actual := hash_or_reason(path)) != expected:
        problems.append(f"{path} was changed: SHA-256 is {actual[:12]}, the ledger has {expected[:12]}")
    try:
        return problems + changed_outputs(folder, read_manifest(folder))
    except ArtifactError as error:
        return [*problems, str(error)]


@dataclass(frozen=True)
class Slot:
    """A stage's place in the run; its clock starts when this is made."""

    root: Path
    """The run's folder."""
    name: str
    place: str
    """The stage's folder relative to the run's, e.g. ``export/host-cpu``."""
    inputs: Mapping[str, str]
    parameters: Mapping[str, Any]
    seed: int
    ledger: Ledger
    started: datetime = field(default_factory=utc_now)
    # Durations need a clock that only goes forward: NTP or a user may set the wall clock in between.
    ticks: float = field(default_factory=time.monotonic)

    @property
    def folder(self) -> Path:
        """The stage's folder, made when it is not there yet."""
        path = self.root / self.place
        # A run may have been sent by somebody else, with a link in it to a folder of the user's.
        if not lies_in(path, self.root):
            raise UsageError(f"{path} leads out of the run through a link; nothing is written there, remove the link")
        make_folder(path)
        return path

    @property
    def fingerprint(self) -> str:
        """SHA-256 over name, inputs and parameters."""
        return fingerprint(self.name, self.inputs, self.parameters)

    def sealed(self) -> Manifest | None:
        """Return the manifest if this very stage is done and its files are as they were written, else None.

        A file that is missing or was changed is an ArtifactError: that is damage, not work to be done.
        """
        if not (self.folder / FILE_NAME).exists():
            return None
        if problems := seal_problems(self.folder, sealed_manifests(self.ledger.records()).get(self.place)):
            raise ArtifactError(*(f"{text}; the same command with --force makes it again" for text in problems))
        manifest = read_manifest(self.folder)
        return manifest if manifest.fingerprint == self.fingerprint else None

    def begin(self) -> Path:
        """Return the folder, ready for this stage's work: a seal of other inputs or parameters is taken off first."""
        folder = self.folder
        if (folder / FILE_NAME).exists():
            with storage_errors(folder):
                # Before the ledger: a kill in between leaves no manifest, and the stage is done again. The other way
                # round, a manifest that the ledger does not know would look forged.
                (folder / FILE_NAME).unlink()
            self.ledger.append("unsealed", stage=self.name, folder=self.place)
        return folder

    def seal(self, outputs: Iterable[Path], facts: Mapping[str, Any]) -> Manifest:
        """Hash the outputs and force them to the disk, enter them in the ledger, write the manifest last."""
        folder = self.folder
        files = list(outputs)
        for path in files:
            # Before the ledger vouches for them: after a power cut it could be whole, and a file that it names still
            # empty.
            sync_file(path)
        manifest = Manifest(
            stage=self.name,
            fingerprint=self.fingerprint,
            inputs=dict(self.inputs),
            parameters=dict(self.parameters),
            outputs=hashes_of(folder, files),
            facts=dict(facts),
            versions=loaded_versions(),
            seed=self.seed,
            started=self.started.isoformat(timespec="milliseconds"),
            duration_s=round(time.monotonic() - self.ticks, 3),
            producer=producer(),
            commit=commit_here(),
        )
        text = json.dumps(manifest.model_dump(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        # The ledger first: a kill in between leaves a folder without a manifest, which is simply done again.
        # The manifest does not exist yet, so its text is hashed. The same text is written below.
        self.ledger.append("sealed", stage=self.name, folder=self.place, manifest=sha256_of_text(text))
        atomic_write_text(folder / FILE_NAME, text)
        return manifest

    def clear(self) -> None:
        """Empty the stage's folder, manifest first; a folder that is a link, or lies outside the run, is refused."""
        path = self.root / self.place
        # `exists` follows links, so one that leads nowhere would count as an empty place.
        if not path.exists() and not path.is_symlink():
            return
        # The run itself may be reached through a link, as `runs/latest` is one. Below it, a link leads to files of
        # others.
        links = [p for p in (path, *path.parents) if p.is_symlink() and p.is_relative_to(self.root) and p != self.root]
        if links or not path.resolve().is_relative_to(self.root.resolve()):
            raise UsageError(f"{path} is reached through a link; it is not cleared, remove it yourself")
        make_folder(path)  # or say what stands there instead
        with storage_errors(path):
            # First of all: a kill while the rest is deleted must not leave a seal on half a folder.
            (path / FILE_NAME).unlink(missing_ok=True)
            self.ledger.append("unsealed", stage=self.name, folder=self.place)
            for child in sorted(path.iterdir()):
                # rmtree refuses a link to a folder, and unlink removes the link without touching what it leads to.
                if child.is_dir() and not child.is_symlink():
                    shutil.rmtree(child)
                else:
                    child.unlink()
