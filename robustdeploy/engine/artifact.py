"""An artifact: a file that a stage made and sealed; the manifest beside it tells what it was made from."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from robustdeploy.core.model import Noun


class Artifact(Noun):
    """A file, and its hash when it was sealed."""

    path: Path
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
