"""Golden images: held-out images with the host's scores, on which a board checks itself and is timed."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np

from robustdeploy.core.archive import Arrays, arrays_from, check_arrays
from robustdeploy.core.reading import read_bounded
from robustdeploy.engine.lineage import remedy
from robustdeploy.errors import ArtifactError
from robustdeploy.nets.store import NetInfo
from robustdeploy.onboard.types import Bytes, Labels, Scores
from robustdeploy.train.facts import HELD_OUT

GOLDEN = "golden.npz"


def golden_images(images: Bytes, labels: Labels, scores: Scores) -> bytes:
    """Pack held-out training images with the scores that ONNX Runtime gave them on the host; never a test image."""
    buffer = io.BytesIO()
    # Not compressed: two versions of zlib pack the same images into different bytes.
    np.savez(buffer, images=images, labels=labels, scores=scores)
    return buffer.getvalue()


def load_golden(path: Path, info: NetInfo) -> Arrays:
    """Return the arrays ``images``, ``labels`` and ``scores`` at ``path``, for the net of ``info``."""
    # What a net of these classes and images can need, with room for the headers.
    most = 2**20 + HELD_OUT * (math.prod(info.image_shape) + 8 + 4 * len(info.classes))
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {"images": ("uint8", info.image_shape), "labels": ("int64", ())}
    wanted["scores"] = ("float32", (len(info.classes),))
    try:
        arrays = arrays_from(read_bounded(path, most), str(path), most)
        check_arrays(arrays, str(path), wanted)
    except ArtifactError as problem:
        raise ArtifactError(f"{problem}; {remedy(path)}") from problem
    return arrays
