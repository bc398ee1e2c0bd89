"""Building an engine: from an ONNX file here to an engine in a folder here, on the board or beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from robustdeploy.core.records import Record
from robustdeploy.core.target import Target
from robustdeploy.cost.onnx_graph import read_model
from robustdeploy.devices.board import Board, Compiled
from robustdeploy.devices.builder import builder_for, differing
from robustdeploy.devices.toolchain import Installed, installed_on
from robustdeploy.devices.transfer import Moved
from robustdeploy.errors import BoardError, ToolchainError
from robustdeploy.onboard.engine import Files, checked_files, engine_id, size_of

Progress = Callable[[str, int, int], object]
"""Hears what is being done, how far it is and how much there is."""


class Built(Record):
    """An engine that was built: its files, with what, how long it took and what it is tied to."""

    files: Annotated[Files, AfterValidator(checked_files)]
    seconds: float = Field(ge=0)
    """Time the toolchain took."""
    backend: str
    version: str
    """Of the toolchain."""
    identity: dict[str, str]
    """What it is tied to, on the board that it is for."""
    where: Literal["board", "host"]
    """Where it was built."""

    @property
    def id(self) -> str:
        """The engine's one name, by the names and hashes of its files."""
        return engine_id(self.files)

    @property
    def bytes(self) -> int:
        """Size of all its files together."""
        return size_of(self.files)


def build_engine(board: Board, target: Target, onnx: Path, agent: Path, folder: Path, progress: Progress) -> Built:
    """Build the engine of the file ``onnx`` for ``board`` and leave its files in ``folder``.

    ``agent`` is started on this machine where the target says ``build_on: host``; ``installed_on`` tells beforehand
    what the engine would be tied to. Raises ToolchainError where the toolchain is missing, of a version that the
    target does not support, or not one that can build here for that board; ArtifactError where it refuses the net.
    """
    there = installed_on(board, target)
    # An ONNX file may take values from any file of the machine that loads it. Such a one is refused before it travels.
    read_model(onnx)
    check_room(board, onnx.stat().st_size)
    with builder_for(board, there, target, agent) as builder:
        # As a whole: a board that was lost in between may have lost what it was sent or has built.
        compiled = builder.lasting(lambda: _compiled(builder, target, onnx, folder, progress))
    return Built(
        files=compiled.files,
        seconds=compiled.seconds,
        backend=there.name,
        version=there.version,
        identity=dict(there.identity),
        where=target.build_on,
    )


def _compiled(builder: Board, target: Target, onnx: Path, folder: Path, progress: Progress) -> Compiled:
    sent = builder.put(onnx, _told(progress, f"sending {onnx.name} (KiB)", onnx.stat().st_size))
    progress("compiling", 0, 1)
    compiled = builder.compile(target.backend.name, sent, target.backend.options)
    progress("compiling", 1, 1)
    builder.fetch(compiled.files, folder, _told(progress, "fetching the engine (KiB)", compiled.bytes))
    return compiled


def check_room(board: Board, net_bytes: int) -> None:
    """Raise BoardError where the board's disk takes no net of this size and its engine; nothing is sent."""
    # An engine is rarely larger than its net, and lies there twice while it is put in place.
    free, needed = board.facts["free_disk_bytes"], 3 * net_bytes + (1 << 20)
    if free < needed:
        raise BoardError(
            f"{board.pipe.where} has {free >> 20:,} MiB free and {-(-needed >> 20):,} MiB are needed for the net and "
            "its engine; make room there or set the link's folder"
        )


def check_fits(built: Built, there: Installed) -> None:
    """Raise ToolchainError where ``built`` was built for another device, or by another version, than is ``there``."""
    if (built.backend, built.version) != (there.name, there.version):
        raise ToolchainError(
            f"{there.where}: the engine was built by {built.backend} {built.version}, and {there.name} {there.version} "
            "is there; build it again"
        )
    if unlike := differing(built.identity, there.identity):
        raise ToolchainError(f"{there.where}: the engine is tied to {unlike} that is there; build it again")


def _told(progress: Progress, what: str, total: int) -> Moved:
    def moved(done: int) -> None:
        progress(what, -(-done // 1024), -(-total // 1024))

    return moved
