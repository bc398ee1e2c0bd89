"""The bundle: everything of ours that a board needs, in one zip whose bytes depend on its content alone."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robustdeploy.core.files import atomic_write_bytes
from robustdeploy.core.target import Target
from robustdeploy.errors import ArtifactError
from robustdeploy.onboard.types import Bytes, Labels, Scores

MANIFEST = "bundle.json"
GOLDEN = "golden.npz"
# zipfile answers damage with many kinds of errors: RuntimeError for an encryption flag or an unknown method, too.
_UNSOUND = (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, LookupError, TypeError, ValueError)
_EPOCH = (1980, 1, 1, 0, 0, 0)


def golden_images(images: Bytes, labels: Labels, scores: Scores) -> bytes:
    """Pack held-out training images with the host's scores: a board checks itself and is timed on them.

    No test image is in a bundle; the evaluation brings its own.
    """
    buffer = io.BytesIO()
    np.savez(buffer, images=images, labels=labels, scores=scores)
    return buffer.getvalue()


def write_bundle(path: Path, files: Mapping[str, bytes], target: Target, facts: Mapping[str, Any]) -> None:
    """Write ``files`` and a manifest with their SHA-256, the target, and how its engine is to be built."""
    manifest = {
        "schema": 1,
        "target": target.model_dump(mode="json"),
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())},
        "engine": {"backend": target.backend.name, "options": target.backend.options, "built": "on the board"},
        **facts,
    }
    content = {**files, MANIFEST: json.dumps(manifest, indent=2, sort_keys=True).encode() + b"\n"}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(content):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content[name])
    atomic_write_bytes(path, buffer.getvalue())


def read_bundle(path: Path) -> dict[str, bytes]:
    """Return a bundle's files after checking each against the manifest; ArtifactError when anything differs."""
    try:
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        expected = dict(json.loads(files[MANIFEST])["files"])
    except _UNSOUND as problem:
        raise ArtifactError(
            f"{path} is not a sound bundle ({problem}); make it again with `export --force`"
        ) from problem
    if strange := sorted(set(files) - set(expected) - {MANIFEST}):
        raise ArtifactError(f"{strange[0]} in {path} is not in its manifest; make it again with `export --force`")
    for name, digest in expected.items():
        if hashlib.sha256(files.get(name, b"")).hexdigest() != digest:
            raise ArtifactError(f"{name} in {path} is not what its manifest says; make it again with `export --force`")
    return files


def golden_from(content: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays ``images``, ``labels`` and ``scores`` of a bundle's golden images."""
    with np.load(io.BytesIO(content), allow_pickle=False) as held:
        return dict(held)
