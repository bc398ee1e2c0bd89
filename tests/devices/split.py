"""A backend whose engine is two files that differ bit by bit at each build: a table of weights, and how to read it.

It computes the tests' linear nets for real. Environment variables of its agent make it another device or version.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from robustdeploy.onboard.engine import file_of
from robustdeploy.onboard.types import Model, Probe


@dataclass(frozen=True)
class Split:
    """Reads the one matrix of a linear net, and keeps it beside a description of it."""

    TIED_TO: ClassVar[tuple[str, ...]] = ("machine", "flavour", "units")
    BUILDS_ON_HOST: ClassVar[bool] = True
    padding: int = 0
    """Bytes that are written behind the weights, so that the file comes in pieces."""
    stray: str = ""
    """What else is left in the folder, which no engine may have."""

    def probe(self) -> Probe:
        details = {"flavour": os.environ.get("SPLIT_FLAVOUR", "plain"), "units": [1, 2]}
        if os.environ.get("SPLIT_SILENT"):
            del details["flavour"]
        return Probe(usable=True, version=os.environ.get("SPLIT_VERSION", "1.0"), details=details)

    def compile(self, onnx: Path, engine: Path) -> None:
        import onnx as library
        from onnx import numpy_helper

        assert list(engine.iterdir()) == []
        weights = numpy_helper.to_array(library.load(onnx).graph.initializer[0])
        (engine / "weights.bin").write_bytes(weights.tobytes() + os.urandom(self.padding))
        (engine / "about.json").write_text(json.dumps({"shape": weights.shape, "salt": os.urandom(8).hex()}))
        strays = {
            "folder": lambda: (engine / "cache").mkdir(),
            "link": lambda: (engine / "link").symlink_to("weights.bin"),
            "empty": lambda: (engine / "empty").touch(),
            "hidden": lambda: (engine / ".lock").write_text("x"),
            "odd": lambda: (engine / "a b").write_text("x"),
            "pipe": lambda: os.mkfifo(engine / "pipe"),
            "many": lambda: [(engine / f"f{number}").write_text("x") for number in range(300)],
            "nothing": lambda: [path.unlink() for path in engine.iterdir()],
        }
        if self.stray:
            strays[self.stray]()

    @contextmanager
    def open(self, engine: Path) -> Iterator[Model]:
        assert sorted(path.name for path in engine.iterdir()) == ["about.json", "weights.bin"]
        shape = json.loads(file_of(engine, "about.json").read_text())["shape"]
        held = np.frombuffer(file_of(engine, "weights.bin").read_bytes(), np.float32, int(np.prod(shape)))
        weights = held.reshape(shape)
        yield lambda images: images.reshape(len(images), -1) @ weights


plugin = Split
