"""The bundle: everything of ours that a board needs, in one zip whose bytes depend on its content alone."""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robustdeploy.core.archive import Arrays, arrays_from, check_arrays, unpacked
from robustdeploy.core.files import atomic_write_bytes
from robustdeploy.core.reading import parse_json, read_bounded
from robustdeploy.core.target import Target
from robustdeploy.errors import ArtifactError
from robustdeploy.nets.store import NetInfo
from robustdeploy.onboard.types import Bytes, Labels, Scores
from robustdeploy.train.facts import HELD_OUT

MANIFEST = "bundle.json"
GOLDEN = "golden.npz"
CONTENT = ("model.onnx", "agent.pyz", GOLDEN)
"""What every bundle holds beside its manifest."""
_MOST_BYTES = 2 * 2**30
"""An ONNX file is limited to 2 GiB by its own format."""
_MOST_PLAIN, _MOST_RATIO = 64 * 2**20, 100
"""Nets and images do not shrink much: what would unpack to far more than the archive's own size is none of ours."""
_AGAIN = "make it again with `export --force`"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def golden_images(images: Bytes, labels: Labels, scores: Scores) -> bytes:
    """Pack held-out training images with the host's scores: a board checks itself and is timed on them.

    No test image is in a bundle; the evaluation brings its own.
    """
    buffer = io.BytesIO()
    # Not compressed here, as the bundle around it is.
    np.savez(buffer, images=images, labels=labels, scores=scores)
    return buffer.getvalue()


def write_bundle(path: Path, files: Mapping[str, bytes], target: Target, facts: Mapping[str, Any]) -> None:
    """Write ``files`` and a manifest with their SHA-256, the target, and how its engine is to be built."""
    manifest = {
        "schema": 1,
        "target": target.model_dump(mode="json"),
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())},
        "engine": {"backend": target.backend.name, "options": target.backend.options, "built_on": target.build_on},
        **facts,
    }
    # The manifest names the hashes of the others and has none itself; that of the whole bundle is in the run's.
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
        content = read_bounded(path, _MOST_BYTES)
        # A bundle is handed from one machine to another, and what unpacks may be a bomb.
        files = unpacked(content, str(path), min(_MOST_BYTES, _MOST_PLAIN + _MOST_RATIO * len(content)))
        expected = _digests(parse_json(files.get(MANIFEST, b""), f"{MANIFEST} in {path}"), path)
    except ArtifactError as problem:
        raise ArtifactError(f"{path} is not a sound bundle: {problem}; {_AGAIN}") from problem
    # An extra file would travel under the name of a sound bundle.
    if strange := sorted(set(files) - set(expected) - {MANIFEST}):
        raise ArtifactError(f"{strange[0]!r} in {path} is not in its manifest; {_AGAIN}")
    if missing := [name for name in (*CONTENT, *expected) if name not in files]:
        raise ArtifactError(f"{missing[0]!r} is missing in {path}; {_AGAIN}")
    for name, digest in expected.items():
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise ArtifactError(f"{name!r} in {path} is not what its manifest says; {_AGAIN}")
    return files


def _digests(manifest: Any, path: Path) -> dict[str, str]:
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise ArtifactError(f"{MANIFEST} in {path} lists no files")
    return files


def golden_from(content: bytes, info: NetInfo) -> Arrays:
    """Return the arrays ``images``, ``labels`` and ``scores`` of a bundle's golden images, for the net of ``info``."""
    where = f"{GOLDEN} in the bundle"
    # What a net of these classes and images can need, with room for the headers.
    most = 2**20 + HELD_OUT * (math.prod(info.image_shape) + 8 + 4 * len(info.classes))
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {"images": ("uint8", info.image_shape), "labels": ("int64", ())}
    wanted["scores"] = ("float32", (len(info.classes),))
    try:
        arrays = arrays_from(content, where, most)
        check_arrays(arrays, where, wanted)
    except ArtifactError as problem:
        raise ArtifactError(f"{problem}; {_AGAIN}") from problem
    return arrays
