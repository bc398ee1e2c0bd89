"""Compile: an ONNX file becomes an engine of one target, built there or here, and kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robustdeploy.core.files import make_folder
from robustdeploy.core.plain import plain
from robustdeploy.core.subject import Subject
from robustdeploy.core.target import Target
from robustdeploy.devices.board import Board
from robustdeploy.devices.build import Built, build_engine, check_fits
from robustdeploy.devices.toolchain import installed_on
from robustdeploy.engine.places import engine_place
from robustdeploy.engine.stage import Finished, Need, Work
from robustdeploy.errors import ToolchainError
from robustdeploy.stages.lower import OnnxStage
from robustdeploy.stages.session import Session

FOLDER = "engine"
"""In the stage's folder, with the engine's files and nothing else."""


@dataclass(frozen=True)
class Compile:
    """Compiles one net for one target.

    Two builds may differ bit by bit, so what is measured is the one that is kept.
    """

    session: Session
    subject: Subject
    target: Target
    export: OnnxStage
    name: str = "compile"
    record: type[Built] = Built

    @property
    def place(self) -> str:
        """``engines/pruned/fp32@host-cpu``."""
        return engine_place(self.subject)

    @property
    def needs(self) -> tuple[Need, ...]:
        """The ONNX file."""
        return (Need(self.export, ("model.onnx",)),)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The toolchain with its options, and where it is asked to build. Its version is found when it is needed."""
        # Not the latency plan or the clocks: to measure otherwise, the same engine must be used.
        return {"backend": plain(self.target.backend), "build_on": self.target.build_on, "arch": self.target.arch}

    def inputs(self) -> Mapping[str, str]:
        """Nothing but the file; what it is tied to on the board is in the record, and looked at by ``misfit``."""
        return {}

    def misfit(self, done: Finished[Built]) -> str:
        """Say in what the device or its toolchain is another than the engine was built for."""
        try:
            fleet = self.session.fleet(self.target)
            fleet.first(lambda board: check_fits(done.record, installed_on(board, self.target)))
        except ToolchainError as error:
            return str(error)
        return ""

    def run(self, work: Work) -> Built:
        """Build, and fetch the files."""
        session, callback = self.session, self.session.callback
        folder, onnx = work.folder / FOLDER, work.of(self.export).folder / "model.onnx"
        make_folder(folder)

        def progress(what: str, done: int, total: int) -> None:
            callback.progress(f"{self.target.name}, {what}", done, total)

        def build(board: Board) -> Built:
            # A kill while files were fetched leaves some of them, and the folder must hold one engine alone.
            for left in folder.iterdir():  # half of another engine
                left.unlink()
            return build_engine(board, self.target, onnx, session.agent, folder, progress)

        # Boards of one target are alike, so what one of them builds is for all.
        built = session.fleet(self.target).first(build)
        # Attacks in torch may come next and take hours, in which a silent connection is easily lost.
        session.leave(self.target)
        work.keep(*(f"{FOLDER}/{file.name}" for file in built.files))
        told = "" if self.target.emulated and built.where == "board" else f"{built.seconds:.1f} s, "
        callback.say(
            f"compile: {self.subject}, {built.backend} {built.version} on the {built.where}, {told}"
            f"{built.bytes / 1024:,.0f} KiB"
        )
        return built
