"""Measure: attack and time what runs on one target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustdeploy.core.files import sha256_of_file
from robustdeploy.core.plain import plain
from robustdeploy.core.records import BoardRecord
from robustdeploy.core.registry import PRECISIONS
from robustdeploy.core.settings import evaluation_content
from robustdeploy.core.subject import FP32, TORCH, Subject
from robustdeploy.core.target import Target
from robustdeploy.engine.places import board_place
from robustdeploy.engine.stage import Need, Work
from robustdeploy.evaluate.adversarial import FILE
from robustdeploy.evaluate.measuring import Request, evaluate
from robustdeploy.export.golden import GOLDEN, load_golden
from robustdeploy.export.parity import parity_rows
from robustdeploy.nets.store import load_info
from robustdeploy.onboard.engine import Files
from robustdeploy.stages.attack import Attack, brought_to
from robustdeploy.stages.compile import FOLDER, Compile
from robustdeploy.stages.lower import OnnxStage, twin_file
from robustdeploy.stages.session import Session
from robustdeploy.train.facts import PRINTS_FILE
from robustdeploy.train.setup import device_from


@dataclass(frozen=True)
class Measure:
    """Replays what was found in torch, asks query attacks on the board itself, and times the engine."""

    session: Session
    subject: Subject
    target: Target
    export: OnnxStage
    engine: Compile
    found: Attack
    beside: Attack | None
    """What was found on the dense net that the subject is compared with in torch."""
    dense_engine: Compile | None
    """The dense net's engine on the same target, which is timed in turns with the subject's."""
    name: str = "measure"
    record: type[BoardRecord] = BoardRecord

    @property
    def place(self) -> str:
        """``boards/pruned/fp32@host-cpu``; what was measured under other settings stands beside."""
        return board_place(self.subject, self.session.label)

    @property
    def needs(self) -> tuple[Need, ...]:
        """The engine, what is replayed on it, and the net and the file that it is of."""
        return (
            Need(self.export.net, ("model.safetensors", "net.json", PRINTS_FILE)),
            Need(self.export, ("model.onnx", GOLDEN)),
            Need(self.engine),
            Need(self.found, (FILE,)),
            *((Need(self.beside, (FILE,)),) if self.beside else ()),
            *((Need(self.dense_engine),) if self.dense_engine else ()),
        )

    @property
    def settings(self) -> Mapping[str, Any]:
        """How it is attacked and timed."""
        recipe = self.session.asked
        # Here with the latency plan and the clock policy: they decide what is timed.
        return {
            "evaluate": evaluation_content(recipe.evaluate),
            "threat": plain(recipe.attacked_within),
            "target": plain(self.target),
        }

    def inputs(self) -> Mapping[str, str]:
        """The test images, and the agent of the installed package."""
        session = self.session
        info = load_info(session.run.root / self.export.net.place)
        # What was found in torch stands for a net that is brought along; of replays another may be the worst here.
        brought = brought_to(session, info, ("replay",))
        return {"test_images": session.test_images(info).digest, "agent": sha256_of_file(session.agent), **brought}

    def run(self, work: Work) -> BoardRecord:
        """Measure, block by block; sealed blocks of an interrupted call are used again."""
        session, onnx = self.session, work.of(self.export)
        net = work.of(self.export.net).folder
        info = load_info(net)
        images = session.test_set(info)
        twin = twin_file(onnx)
        # Without a twin the net in float32 is what was attacked, and what the board is compared with.
        own = self.subject.precision == FP32 or twin is not None
        reference = self.subject.reference if own else Subject(self.subject.net, FP32, TORCH)
        given = onnx.record.given
        precision = given.computes_in if given is not None else self.subject.precision
        request = Request(
            recipe=session.asked,
            subject=self.subject,
            reference=reference,
            limits=PRECISIONS.get(precision).LIMITS,
            target=self.target,
            test=session.test_images(info),
            available=len(images),
            classes=info.classes,
            net=net,
            onnx=onnx.folder / "model.onnx",
            twin=twin,
            exported=onnx.record,
            engine=work.of(self.engine).folder / FOLDER,
            built=work.of(self.engine).record,
            dense_engine=self._dense_engine(work),
            found=work.of(self.found).folder / FILE,
            dense_found=work.of(self.beside).folder / FILE if self.beside else None,
            golden=load_golden(onnx.folder / GOLDEN, info),
            extra_rows=parity_rows(onnx.record.parity, self.subject.reference),
            device=str(device_from(session.run.recipe.train.device)),
            trust=session.trust,
            reading=images.reading,
        )
        record = evaluate(request, session.fleet(self.target), work, self._progress)
        session.callback.say(f"measure: {self.subject}, {record.n} test images, outcomes in {_relative(work.folder)}")
        return record

    def _dense_engine(self, work: Work) -> tuple[Path, Files] | None:
        if self.dense_engine is None:
            return None
        made = work.of(self.dense_engine)
        return made.folder / FOLDER, made.record.files

    def _progress(self, what: str, done: int, total: int) -> None:
        self.session.callback.progress(f"{self.subject}, {what}", done, total)


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
