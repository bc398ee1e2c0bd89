"""One stage of a run: its folder, whether it is already done, and the seal that says so."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from robustdeploy.core.files import atomic_write_text, sha256_of_text, storage_errors, sync_file
from robustdeploy.core.ledger import Ledger, utc_now
from robustdeploy.core.manifest import (
    FILE_NAME,
    Manifest,
    changed_outputs,
    fingerprint,
    hashes_of,
    loaded_versions,
    producer,
    read_manifest,
)
from robustdeploy.errors import ArtifactError, UsageError


@dataclass(frozen=True)
class Stage:
    """A function's place in the run; its clock starts when this is made."""

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
    ticks: float = field(default_factory=time.monotonic)

    @property
    def folder(self) -> Path:
        """The stage's folder, made when it is not there yet."""
        path = self.root / self.place
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
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
        manifest = read_manifest(self.folder)
        if manifest.fingerprint != self.fingerprint:
            return None
        if changed := changed_outputs(self.folder, manifest):
            raise ArtifactError("\n".join(f"{text}; `--force {self.name}` makes it again" for text in changed))
        return manifest

    def begin(self) -> Path:
        """Return the folder, ready for this stage's work: a seal of other inputs or parameters is taken off first."""
        folder = self.folder
        if (folder / FILE_NAME).exists():
            with storage_errors(folder):
                (folder / FILE_NAME).unlink()
            self.ledger.append("unsealed", stage=self.name, folder=self.place)
        return folder

    def seal(self, outputs: Iterable[Path], facts: Mapping[str, Any]) -> Manifest:
        """Hash the outputs and force them to the disk, enter them in the ledger, write the manifest last."""
        folder = self.folder
        files = list(outputs)
        for path in files:
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
        )
        text = json.dumps(manifest.model_dump(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        # The ledger first: a kill in between leaves a folder without a manifest, which is simply done again.
        self.ledger.append("sealed", stage=self.name, folder=self.place, manifest=sha256_of_text(text))
        atomic_write_text(folder / FILE_NAME, text)
        return manifest

    def clear(self) -> None:
        """Empty the stage's folder, manifest first; a folder that is a link, or lies outside the run, is refused."""
        path = self.root / self.place
        if not path.exists() and not path.is_symlink():
            return
        links = [p for p in (path, *path.parents) if p.is_symlink() and p.is_relative_to(self.root) and p != self.root]
        if links or not path.resolve().is_relative_to(self.root.resolve()):
            raise UsageError(f"{path} is reached through a link; it is not cleared, remove it yourself")
        with storage_errors(path):
            (path / FILE_NAME).unlink(missing_ok=True)
            self.ledger.append("unsealed", stage=self.name, folder=self.place)
            for child in sorted(path.iterdir()):
                if child.is_dir() and not child.is_symlink():
                    shutil.rmtree(child)
                else:
                    child.unlink()
