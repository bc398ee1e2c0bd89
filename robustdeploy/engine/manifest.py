"""The manifest that seals a stage's folder: what went in, what came out, and under which circumstances."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError, model_validator

import robustdeploy
from robustdeploy.core.complaint import complaint
from robustdeploy.core.files import canonical_json, hash_or_reason, lies_in, sha256_of_file, sha256_of_text
from robustdeploy.core.model import Noun
from robustdeploy.core.reading import read_json
from robustdeploy.errors import ArtifactError
from robustdeploy.foreign import one_line

FILE_NAME = "manifest.json"
_GIT_S = 5.0
"""A working tree of millions of files is not worth waiting for."""
_PACKAGES = ("numpy", "torch", "torchvision", "torch_pruning", "onnx", "onnxruntime", "safetensors", "scipy")


class Manifest(Noun):
    """A stage's seal; it is written last, so a folder that has one is complete."""

    stage: str
    fingerprint: str
    """SHA-256 over stage, inputs and parameters; a stage is skipped while this stays the same."""
    inputs: dict[str, str]
    """What the stage read, by name, each with its SHA-256."""
    parameters: dict[str, Any]
    outputs: dict[str, str]
    """SHA-256 of every file written, by path relative to the stage's folder."""
    # pydantic copies a default for each instance, so this one is not shared.
    facts: dict[str, Any] = {}
    """What was found on the way, e.g. the MACs that were reached."""
    versions: dict[str, str]
    seed: int
    started: str
    """UTC, ISO 8601."""
    duration_s: float
    producer: str
    """Tool and version."""
    commit: str = ""
    """Git commit of the folder that the command ran in, with ``-dirty`` where files differ from it."""

    @model_validator(mode="after")
    def _readable(self) -> Manifest:
        _Parameters.model_validate(self.parameters)
        return self


class _Target(BaseModel):
    """What is read of the target that a stage was made for; more may stand beside it."""

    emulated: bool = False
    status: str = ""
    backend: dict[str, Any] = {}


class _Settings(BaseModel):
    """What is read of the settings of an evaluation."""

    limit: int | None = None


class _Parameters(BaseModel):
    """Parameters that later stages read; a manifest may have been edited and sealed again."""

    target: _Target = _Target()
    evaluate: _Settings = _Settings()


def fingerprint(stage: str, inputs: Mapping[str, str], parameters: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what decides a stage's result."""
    content = {"stage": stage, "inputs": dict(inputs), "parameters": dict(parameters)}
    return sha256_of_text(canonical_json(content))


def producer() -> str:
    """Return this tool's name and version."""
    return f"robustdeploy {robustdeploy.__version__}"


def commit_here() -> str:
    """Return the commit of the working directory, ``-dirty`` where files differ from it; empty outside a repository."""
    # No tags: the name of a tag may move, the hash of a commit does not.
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_S, check=False)
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def loaded_versions() -> dict[str, str]:
    """Return the versions of Python and of those numerical packages that this process has loaded."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        # To import a package for its version would cost seconds. What this process has not loaded decided nothing.
        if (module := sys.modules.get(package)) is not None:
            found[package] = str(getattr(module, "__version__", "unknown"))
    return found


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest; a missing or malformed one is an ArtifactError."""
    path = folder / FILE_NAME
    if not path.exists():
        raise ArtifactError(f"{folder} holds no {FILE_NAME}: the stage did not finish")
    try:
        return Manifest.model_validate(read_json(path))
    except ArtifactError as error:
        raise ArtifactError(f"{path} is not a manifest ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))} {complaint(first, Manifest)}".strip()
        raise ArtifactError(f"{path} is not a manifest ({what})") from error


def hashes_of(folder: Path, outputs: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file by its path relative to ``folder``; a path outside it is a ValueError."""
    # Sorted, so that the manifest does not depend on the order in which a stage names its files.
    return {path.relative_to(folder).as_posix(): sha256_of_file(path) for path in sorted(outputs)}


def changed_outputs(folder: Path, manifest: Manifest) -> list[str]:
    """Return one sentence per output that is missing or differs from the manifest."""
    found = []
    for name, expected in manifest.outputs.items():
        path = folder / name
        # A manifest may be forged: a name such as `../../key` would have files outside the run opened and compared.
        if not lies_in(path, folder):
            found.append(f"{folder}: the manifest names {one_line(name)}, which lies outside the stage's folder")
        elif not path.is_file():
            found.append(f"{one_line(path)} is missing (its manifest has SHA-256 {expected[:12]})")
        elif (actual := hash_or_reason(path)) != expected:
            found.append(f"{path} was changed: SHA-256 is {actual[:12]}, its manifest has {expected[:12]}")
    return found
