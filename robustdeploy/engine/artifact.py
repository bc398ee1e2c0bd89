"""An artifact: a file with a past."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from robustdeploy.core.model import Noun


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
