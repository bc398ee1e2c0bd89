"""Overlap: test images that the net has been trained on, byte for byte or nearly so.

Thumbnails are compared by their correlation, which changes of brightness and contrast leave as it is, with the test
image as it is and mirrored. Barz and Denzler, "Do we train on test data?" (J. Imaging 2020), found 3 % of CIFAR-10's
test images and 10 % of CIFAR-100's to be in their training sets; what is found here are the clearest of those.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robustdeploy.core.metrics import METRICS
from robustdeploy.core.report import Diagnostic
from robustdeploy.data.prints import Prints
from robustdeploy.evaluate.intervals import clopper_pearson_lower
from robustdeploy.onboard.types import Labels

TEST_METRICS = tuple(name for name in METRICS if "accuracy" in name)
"""What is measured on test images."""
NEAR = 0.015
"""Most that 1 − correlation of two thumbnails may be."""
OF_USUAL = 0.1
"""And most of what it is, in the median, between a test image and the test image most like it: digits are alike."""
COARSE = 0.03
"""The same for thumbnails of half the side, which are compared first."""
_MOST = 200_000
_AT_ONCE = 250
_SHOWN = 5

_Rows = npt.NDArray[np.float32]
_Bits = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Overlap:
    """Which test images are among the training images."""

    exact: _Bits
    near: _Bits
    """Nearly, and not byte for byte."""
    looked: bool
    """Whether near copies were looked for."""


def overlap_of(test: Prints, trained: Prints) -> Overlap:
    """Look for each test image among the training images."""
    exact = np.isin(test["hashes"], trained["hashes"])
    ours, theirs = test["thumbnails"], trained["thumbnails"]
    # Thumbnails of another version or of other channels cannot be compared. Above the limit it would take minutes.
    if ours.shape[1:] != theirs.shape[1:] or not 0 < len(theirs) <= _MOST:
        return Overlap(exact, np.zeros_like(exact), False)
    # Two images of one digit are alike without being copies. In such sets "near" must mean nearer than usual.
    limit = min(NEAR, OF_USUAL * _usual(ours))
    near = np.zeros(len(ours), np.bool_)
    # Training sets are often enlarged by mirrored images.
    for way in (ours, ours[..., ::-1]):
        near |= _has_copy(way, theirs, limit)
    return Overlap(exact, near & ~exact, True)


def overlap_diagnostic(test: Prints, ids: Labels, file: Path) -> Diagnostic:
    """Say how many test images the net was trained on; ``file`` holds the prints of its training images."""
    name = "train-test-overlap"
    try:
        # The file lies beside a net that somebody else may have made; pickles in it would run code.
        with np.load(file, allow_pickle=False) as held:
            overlap = overlap_of(test, {key: held[key] for key in ("hashes", "thumbnails")})
    except (OSError, ValueError, KeyError):
        text = f"not checked: {file.name}, which tells the training images, is not beside the net; train it again"
        return Diagnostic(id=name, level="warn", text=text)
    exact, near, n = int(overlap.exact.sum()), int(overlap.near.sum()), len(ids)
    bound = clopper_pearson_lower(exact + near, n, 0.99)
    named = ", ".join(map(str, ids[overlap.exact | overlap.near][:_SHOWN]))
    others = f"and {near} more nearly so" if overlap.looked else "and near copies were not looked for"
    text = f"{exact} of {n} test images are among the training images byte for byte, {others}"
    if exact + near:
        text += f" (test images {named}{', …' if exact + near > _SHOWN else ''})"
    # Real sets have a few per cent of copies (see above), which shift an accuracy little. That is worth a warning.
    level: Any = "block" if bound > 0.1 else "warn" if exact or near > 0.01 * n else "ok"
    return Diagnostic(
        id=name,
        level=level,
        text=text,
        value=bound,
        threshold=0.1,
        metrics=TEST_METRICS,
        flatters=True,  # a net is better on what it was trained on
    )


def _unit(thumbnails: npt.NDArray[Any]) -> _Rows:
    """Return one row of mean 0 and length 1 per thumbnail; a plain one has no shape to compare and is all 0."""
    rows = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    rows -= rows.mean(1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    # One grey level per pixel: below that a thumbnail is plain, and its shape is noise of rounding.
    return np.where(length > rows.shape[1] ** 0.5, rows / np.maximum(length, 1e-6), 0).astype(np.float32)


def _halved(thumbnails: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    n, channels, height, width = thumbnails.shape
    cells = thumbnails.reshape(n, channels, height // 2, 2, width // 2, 2)
    means: npt.NDArray[Any] = cells.mean((3, 5), dtype=np.float32)
    return means


def _usual(thumbnails: npt.NDArray[np.uint8]) -> float:
    """Return how far the test image most like it is from a test image, in the median."""
    rows = _unit(thumbnails[:2000])
    alike = rows @ rows.T
    np.fill_diagonal(alike, -1)
    return float(np.median(1 - alike.max(1))) if len(rows) > 1 else 1.0


def _has_copy(ours: npt.NDArray[np.uint8], theirs: npt.NDArray[np.uint8], limit: float) -> _Bits:
    """Tell which of ``ours`` has a copy in ``theirs``: first coarsely among all, then finely among what is left."""
    found = np.zeros(len(ours), np.bool_)
    coarse, known = _unit(_halved(ours)), _unit(_halved(theirs))
    fine, known_fine = _unit(ours), _unit(theirs)
    for start in range(0, len(ours), _AT_ONCE):
        # All pairs of fine thumbnails would be a matrix of many gigabytes; the coarse ones leave few of them.
        mine, other = np.nonzero(coarse[start : start + _AT_ONCE] @ known.T >= 1 - COARSE)
        # In a set of images that are much alike the coarse pass may keep nearly all pairs.
        for at in range(0, len(mine), 100_000):
            rows, columns = mine[at : at + 100_000] + start, other[at : at + 100_000]
            alike = np.einsum("ij,ij->i", fine[rows], known_fine[columns])
            found[rows[alike >= 1 - limit]] = True
    return found
