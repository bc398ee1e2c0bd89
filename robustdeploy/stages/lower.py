"""Lower: an exported net in another precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustdeploy.core.plain import plain
from robustdeploy.core.recipe import Choice
from robustdeploy.core.records import OnnxRecord
from robustdeploy.core.registry import PRECISIONS
from robustdeploy.engine.places import onnx_place
from robustdeploy.engine.stage import Finished, Need, Work
from robustdeploy.export.lowering import Asked, lower
from robustdeploy.stages.export import Export, NetStage
from robustdeploy.stages.session import Session


@dataclass(frozen=True)
class Lower:
    """Writes the ONNX file of one net in one precision, once for all targets that take the same form of it."""

    session: Session
    export: Export
    choice: Choice
    form: str = ""
    """What a target asks for, where that is not the usual; part of the place."""
    name: str = "lower"
    record: type[OnnxRecord] = OnnxRecord

    @property
    def net(self) -> NetStage:
        """The net."""
        return self.export.net

    @property
    def net_name(self) -> str:
        """Its name."""
        return self.export.net_name

    @property
    def opset(self) -> int:
        """That of the file it is made of."""
        return self.export.opset

    @property
    def place(self) -> str:
        """``onnx/pruned/int8``."""
        return onnx_place(self.net_name, self.choice.name, self.opset, self.form)

    @property
    def needs(self) -> tuple[Need, ...]:
        """The exported file, and the net that images are attacked with and compared on."""
        net = Need(self.net, ("model.safetensors", "net.json", "held_out.npz"))
        return (net, Need(self.export, ("model.onnx",)))

    @property
    def settings(self) -> Mapping[str, Any]:
        """How it is lowered, and under which threat images are attacked for that."""
        asked = self.session.asked
        return {"precision": plain(self._asked.precision), "threat": plain(asked.threat), "seed": asked.seed}

    def inputs(self) -> Mapping[str, str]:
        """The images that ranges are measured on, where there are any."""
        return {"images": self.session.training_data.digest} if self._asked.precision.calibration else {}

    def run(self, work: Work) -> OnnxRecord:
        """Lower, and compare."""
        session, asked = self.session, self._asked
        session.callback.progress(f"lowering to {asked.name}", 0, 1)
        made = work.of(self.net), work.of(self.export)
        data = session.training_data if asked.precision.calibration else None

        def progress(step: int, steps: int, numbers: Any) -> None:
            session.callback.progress(f"fine-tuning {self.net_name} in {asked.name}", step, steps, **numbers)

        record = lower(session.run.recipe, asked, made, data, work, progress, session.trust)
        session.callback.progress(f"lowering to {asked.name}", 1, 1)
        lowered = record.lowered
        assert lowered is not None
        session.callback.say(
            f"lower: {self.net_name} in {asked.name}, labels {lowered.agreement_clean:.1%} of {lowered.n} clean and "
            f"{lowered.agreement_adversarial:.1%} of {lowered.n} adversarial images as in fp32"
        )
        for note in record.notes:
            session.callback.say(f"note: {note}")
        return record

    @property
    def _asked(self) -> Asked:
        name, options = self.choice.name, self.choice.options
        return Asked(name, options, PRECISIONS.build(name, options))


OnnxStage = Export | Lower


def twin_file(done: Finished[OnnxRecord]) -> Path | None:
    """Return the file of a lowered net whose torch twin tells of it; None where there is no such twin."""
    lowered = done.record.lowered
    return None if lowered is None or lowered.twin_problem else done.folder / "model.onnx"
