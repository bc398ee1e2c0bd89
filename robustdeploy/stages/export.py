"""Export: a trained net as ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robustdeploy.core.plain import plain
from robustdeploy.core.records import OnnxRecord
from robustdeploy.core.subject import FP32
from robustdeploy.engine.places import onnx_place
from robustdeploy.engine.stage import Need, Work
from robustdeploy.export.exporting import export
from robustdeploy.stages.import_net import Import
from robustdeploy.stages.session import Session
from robustdeploy.stages.train import Train

NetStage = Train | Import


@dataclass(frozen=True)
class Export:
    """Writes the ONNX file of one net, once for all targets of the same opset."""

    session: Session
    net: NetStage
    net_name: str
    opset: int
    name: str = "export"
    record: type[OnnxRecord] = OnnxRecord

    @property
    def place(self) -> str:
        """``onnx/pruned/fp32``."""
        return onnx_place(self.net_name, FP32, self.opset)

    @property
    def needs(self) -> tuple[Need, ...]:
        """The net, and the real images that it is compared on."""
        return (Need(self.net, ("model.safetensors", "net.json", "held_out.npz")),)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What is written into the file, and the threat under which parity is measured."""
        return {"opset": self.opset, "threat": plain(self.session.asked.threat), "recipe": self.session.asked.name}

    def inputs(self) -> Mapping[str, str]:
        """Nothing but the net."""
        return {}

    def run(self, work: Work) -> OnnxRecord:
        """Export and compare."""
        session = self.session
        session.callback.progress("exporting", 0, 1)
        record = export(session.run.recipe, self.opset, work.of(self.net), work, session.trust)
        session.callback.progress("exporting", 1, 1)
        if (parity := record.parity) is None:  # only of a file of others that has no twin in torch
            session.callback.say(f"export: {self.net_name}, as it was given; it has no twin in torch")
        else:
            session.callback.say(
                f"export: {self.net_name}, scores within {max(parity.max_abs_clean, parity.max_abs_adversarial):.1e} "
                f"of torch on {parity.n} clean and {parity.n} adversarial images ({parity.runtime})"
            )
        for note in record.notes:
            session.callback.say(f"note: {note}")
        return record
