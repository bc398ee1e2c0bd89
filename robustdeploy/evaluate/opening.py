"""Opening a board: from the exported file to an engine that answers there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustdeploy.core.registry import BACKENDS
from robustdeploy.core.report import Diagnostic
from robustdeploy.core.target import Target
from robustdeploy.cost.onnx_graph import read_model
from robustdeploy.devices.answers import impossible
from robustdeploy.devices.board import Board
from robustdeploy.errors import BoardError, ToolchainError
from robustdeploy.evaluate.toolchain import check_version

ANOTHER_NET = 0.1
"""Share of the golden scores' own span: a toolchain that computes the net in float32 stays far below it."""


@dataclass(frozen=True)
class Opened:
    """What opening the board showed."""

    facts: dict[str, Any]
    engine: str
    classes: int
    golden_gap: float
    stands_in: bool
    """Whether the backend answers without computing the net, as ``null`` does."""


def open_on(board: Board, target: Target, export: Path, golden: Mapping[str, np.ndarray[Any, Any]]) -> Opened:
    """Probe the toolchain, send the file, build and load the engine, and let it score the golden images.

    Raises ToolchainError when the toolchain is missing there or not of a version the target supports, and BoardError
    when what answers there is another net.
    """
    toolchain = target.backend
    probe = board.probe(toolchain.name, toolchain.options)
    if not probe.usable:
        raise ToolchainError(f"{board.pipe.where}: {toolchain.name} is not usable: {probe.fix}")
    check_version(toolchain.name, probe.version, toolchain.version, board.pipe.where)
    read_model(export / "model.onnx")
    onnx = board.put(export / "model.onnx")
    compiled = board.compile(toolchain.name, onnx, toolchain.options)
    classes = golden["scores"].shape[1]
    board.open_engine(toolchain.name, compiled.engine, toolchain.options, classes=classes)
    scores = board.score(golden["images"])
    gap, span = float(np.abs(scores - golden["scores"]).max()), float(np.ptp(golden["scores"]))
    stands_in = bool(getattr(BACKENDS.get(toolchain.name), "STANDS_IN", False))
    if gap > ANOTHER_NET * span and not stands_in:
        told = f"differs by up to {gap:.3g} from the host's on the bundle's images, where scores span {span:.3g}"
        raise BoardError(f"{board.pipe.where}: {impossible('score', 'scores', f'{told}: another net answers')}")
    facts = {
        **board.facts,
        "where": board.pipe.where,
        "backend": toolchain.name,
        "backend_version": probe.version,
        "backend_details": dict(probe.details),
        "engine_sha256": compiled.engine,
        "engine_bytes": compiled.bytes,
        "compile_s": round(compiled.seconds, 3),
        "golden_images": len(golden["images"]),
        "golden_max_abs": gap,
        "status": target.status,
        "emulated": target.emulated,
    }
    return Opened(facts, compiled.engine, classes, gap, stands_in)


def golden_diagnostic(opened: Opened) -> Diagnostic:
    """Compare the board's scores of the golden images with those of the host's runtime."""
    if opened.stands_in:
        text = "the backend stands in for a toolchain and does not compute the net, so nothing here is about the net"
        return Diagnostic(id="golden-scores", level="block", text=text, value=opened.golden_gap, threshold=1e-3)
    return Diagnostic(
        id="golden-scores",
        level="warn" if opened.golden_gap > 1e-3 else "ok",
        text=f"on the bundle's images the board's scores are within {opened.golden_gap:.2g} of the host runtime's",
        value=opened.golden_gap,
        threshold=1e-3,
    )
