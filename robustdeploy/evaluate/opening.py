"""Opening a board: from an engine in a folder here to one that answers there and is the net."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustdeploy.core.report import Diagnostic
from robustdeploy.core.target import Target
from robustdeploy.devices.answers import impossible
from robustdeploy.devices.board import Board
from robustdeploy.devices.build import Built, check_fits
from robustdeploy.devices.toolchain import installed_on
from robustdeploy.devices.transfer import Moved, silent
from robustdeploy.errors import ArtifactError, BoardError
from robustdeploy.export.precision.protocol import IN_FLOAT32, Limits
from robustdeploy.onboard.engine import Files, engine_id

_LEAST_GAP = 1e-3
"""Of scores, which no toolchain that computes in float32 reaches."""


@dataclass(frozen=True)
class Opened:
    """What opening the board showed."""

    facts: dict[str, Any]
    files: Files
    """Those of the engine that is open; the board has them."""
    classes: int
    golden_gap: float
    golden_span: float
    stands_in: bool
    """Whether the backend answers without computing the net, as ``null`` does."""

    @property
    def engine(self) -> str:
        """The engine's one name."""
        return engine_id(self.files)


def open_on(
    board: Board,
    target: Target,
    built: Built,
    folder: Path,
    golden: Mapping[str, np.ndarray[Any, Any]],
    limits: Limits = IN_FLOAT32,
    moved: Moved = silent,
) -> Opened:
    """Send the engine that was ``built`` into ``folder``, load it, and let it score the golden images.

    Raises ToolchainError when the toolchain or the device there is another than the engine was built for,
    ArtifactError when a file in ``folder`` is not the one that was built or all are larger than the target's memory,
    and BoardError when what answers there is another net.
    """
    toolchain = target.backend
    limit = target.memory_limit_mib
    if limit is not None and built.bytes > limit << 20:
        told = f"the engine has {built.bytes / (1 << 20):,.1f} MiB, and {target.name} allows its process {limit:,} MiB"
        raise ArtifactError(f"{told} (memory_limit_mib); prune more, or choose a smaller net or precision")
    there = installed_on(board, target)
    # The engine may come from a run whose board was exchanged or updated since.
    check_fits(built, there)
    board.send(folder, built.files, moved)
    classes = golden["scores"].shape[1]
    runs = board.open_engine(toolchain.name, built.files, toolchain.options, classes=classes)
    # The last link of the chain: hashes tell which file is there, this shows that the net itself answers.
    scores = board.score(golden["images"])
    gap, span = float(np.abs(scores - golden["scores"]).max()), float(np.ptp(golden["scores"]))
    stands_in = there.traits.stands_in
    # In shares of the span, as logits have no unit: one net's lie within 1, another's within 100. A net of other
    # weights is apart by about the whole of it.
    if gap > limits.another * span and not stands_in:
        told = f"differs by up to {gap:.3g} from the host's on the golden images, where scores span {span:.3g}"
        raise BoardError(f"{board.pipe.where}: {impossible('score', 'scores', f'{told}: another net answers')}")
    facts = {
        **board.facts,
        "where": board.pipe.where,
        "backend": there.name,
        "backend_version": there.version,
        "backend_details": dict(there.details),
        "backend_runs": dict(runs),
        "engine": built.id,
        "engine_files": [asdict(file) for file in built.files],
        "engine_bytes": built.bytes,
        "engine_tied_to": dict(built.identity),
        "built_on": built.where,
        # What an emulator takes to build says as little as what it takes to run.
        **({} if target.emulated and built.where == "board" else {"compile_s": round(built.seconds, 3)}),
        "golden_images": len(golden["images"]),
        "golden_max_abs": gap,
        "status": target.status,
        "emulated": target.emulated,
    }
    return Opened(facts, built.files, classes, gap, span, stands_in)


def golden_diagnostic(opened: Opened, limits: Limits = IN_FLOAT32) -> Diagnostic:
    """Compare the board's scores of the golden images with those of the host's runtime."""
    most = max(_LEAST_GAP, limits.golden * opened.golden_span)
    if opened.stands_in:
        text = "the backend stands in for a toolchain and does not compute the net, so nothing here is about the net"
        return Diagnostic(id="golden-scores", level="block", text=text, value=opened.golden_gap, threshold=most)
    return Diagnostic(
        id="golden-scores",
        level="warn" if opened.golden_gap > most else "ok",
        text=f"on the golden images the board's scores are within {opened.golden_gap:.2g} of the host runtime's",
        value=opened.golden_gap,
        threshold=most,
    )
