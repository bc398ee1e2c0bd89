"""Challenge images: does the engine that was sent compute what a board answers, or does something else?

A board knows the scores of images that it has seen, or that others scored for it. Of images that are made at this
moment, from a number that nobody else knows, it can know them only by running the engine.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import numpy as np

from robustdeploy.core.registry import BACKENDS
from robustdeploy.core.report import Diagnostic
from robustdeploy.devices.board import Board
from robustdeploy.onboard.draws import Draws, key
from robustdeploy.onboard.types import Bytes, Scores, pixels_from_bytes

COUNT = 32
"""Challenge images of one evaluation."""
NOISE = 48
"""Grey levels of noise over a blend, in which no image of any data set has its like."""


def challenged(board: Board, onnx: Path, images: Bytes, most: float, secret: int | None = None) -> int:
    """Return how many challenge images ``board`` scores otherwise than the host does.

    The host runs the file that the engine was built from in ONNX Runtime. ``most`` is the share of its scores' span by
    which a board's may differ. ``secret`` is drawn anew where it is None.
    """
    made = challenge_images(images, secrets.randbits(63) if secret is None else secret)
    backend: Any = BACKENDS.build("onnxruntime", {})
    model = backend.load(onnx)
    pixels = pixels_from_bytes(made)
    # One at a time on the host, and all together there: another batch must not be another net either.
    ours: Scores = np.concatenate([model(pixels[at : at + 1]) for at in range(COUNT)])
    gaps = np.abs(board.score(made) - ours).max(1) / float(np.ptp(ours) or 1.0)
    return int((gaps > most).sum())


def challenge_images(images: Bytes, secret: int) -> Bytes:
    """Blend random pairs of ``images`` by random shares, with noise over them."""
    draws = Draws(key(secret, "challenge"), np.arange(COUNT))
    pairs = (draws.uniform(0, 2) * len(images)).astype(np.int64)
    shares = draws.uniform(1, 1)[:, :, None, None]
    blends = shares * images[pairs[:, 0]] + (1 - shares) * images[pairs[:, 1]]
    noise = (2 * draws.uniform(2, images[0].size) - 1).reshape(blends.shape) * NOISE
    made: Bytes = np.clip(np.round(blends + noise), 0, 255).astype(np.uint8)
    return made


def challenge_diagnostic(apart: int, most: float) -> Diagnostic:
    """Say whether the board computes the engine; ``apart`` and ``most`` are as for ``challenged``."""
    # Without the gap itself: it hangs on the secret, and two evaluations of one engine must tell the same.
    meaning = "something else answers" if apart else "it computes the net that was sent"
    text = (
        f"of {COUNT} images made from a secret number the board scores {apart} otherwise than ONNX Runtime does on the "
        f"host, by more than {most:.0%} of the scores' span: {meaning}"
    )
    return Diagnostic(id="challenge-images", level="block" if apart else "ok", text=text, value=apart, threshold=0)
