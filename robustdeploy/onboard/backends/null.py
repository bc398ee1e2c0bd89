"""The null toolchain: exact scores from a fixed linear map, so that the whole chain runs with nothing installed.

Its scores say nothing about the net. Its latency is the harness's own overhead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ...errors import ArtifactError
from ..draws import Draws, key
from ..engine import file_of
from ..types import Model, Pixels, Probe, Scores

_FILE = "engine.json"


@dataclass(frozen=True)
class Null:
    """A linear map with weights drawn from the ONNX file's hash."""

    STANDS_IN: ClassVar[bool] = True
    """It does not compute the net, so no verdict may rest on it."""
    TIED_TO: ClassVar[tuple[str, ...]] = ()
    BUILDS_ON_HOST: ClassVar[bool] = True
    classes: int = 10

    def probe(self) -> Probe:
        """Say that it works, as it always does."""
        return Probe(usable=True, version="1")

    def compile(self, onnx: Path, engine: Path) -> None:
        """Write the hash of ``onnx`` and the number of classes as the engine."""
        digest = hashlib.sha256(onnx.read_bytes()).hexdigest()
        (engine / _FILE).write_text(json.dumps({"null_engine": 1, "onnx_sha256": digest, "classes": self.classes}))

    @contextmanager
    def open(self, engine: Path) -> Iterator[Model]:
        """Load what `compile` wrote."""
        yield _Linear(*_read(file_of(engine, _FILE)))


class _Linear:
    def __init__(self, seed: int, classes: int) -> None:
        self._draws = Draws(seed, np.arange(classes))
        self._weights: npt.NDArray[np.int64] = np.zeros((0, classes), np.int64)

    def __call__(self, images: Pixels) -> Scores:
        """Score in whole numbers: no rounding, hence the same bits in every batch and on every machine."""
        levels = np.rint(images.reshape(len(images), int(np.prod(images.shape[1:]))) * 255).astype(np.int64)
        if levels.shape[1] != len(self._weights):
            self._weights = np.floor(self._draws.uniform(0, levels.shape[1]).T * 255).astype(np.int64) - 127
        scores: Scores = ((levels @ self._weights) / 32512.0).astype(np.float32)
        return scores


def _read(file: Path) -> tuple[int, int]:
    try:
        document = json.loads(file.read_text())
        if document["null_engine"] != 1 or not 2 <= document["classes"] <= 100_000:
            raise ValueError("unknown version or number of classes")
        return key("null", str(document["onnx_sha256"])), int(document["classes"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ArtifactError(f"{file.name} is not an engine of the null backend; compile it again") from None


plugin = Null
