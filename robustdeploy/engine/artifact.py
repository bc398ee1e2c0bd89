"""An artifact: a file with a past."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from robustdeploy.core.model import Noun
from robustdeploy.engine.manifest import Manifest
from robustdeploy.errors import ArtifactError


class Artifact(Noun):
    """A file that a stage made, and everything it was made from."""

    path: Path
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    parents: dict[str, str]
    """SHA-256 of what the stage read, by name."""
    parameters: dict[str, Any]
    """The stage's part of the recipe."""
    producer: str
    """Tool and version."""


@dataclass(frozen=True)
class Sealed:
    """A finished stage: its folder and the manifest that seals it."""

    folder: Path
    manifest: Manifest

    def artifact(self, name: str) -> Artifact:
        """Return the output ``name``; ArtifactError when the stage has none of that name."""
        if name not in self.manifest.outputs:
            known = ", ".join(sorted(self.manifest.outputs))
            raise ArtifactError(f"{self.folder} has no output {name}; it has {known}")
        return Artifact(
            path=self.folder / name,
            sha256=self.manifest.outputs[name],
            parents=self.manifest.inputs,
            parameters=self.manifest.parameters,
            producer=self.manifest.producer,
        )
