"""Bundle: an exported net, the agent and golden images in one file for a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robustdeploy.core.plain import plain
from robustdeploy.core.records import BundleRecord
from robustdeploy.core.subject import Subject
from robustdeploy.core.target import Target
from robustdeploy.engine.places import bundle_place
from robustdeploy.engine.stage import Need, Work
from robustdeploy.export.bundle import GOLDEN
from robustdeploy.export.exporting import pack, plugin_inputs
from robustdeploy.stages.lower import OnnxStage
from robustdeploy.stages.session import Session


@dataclass(frozen=True)
class Bundle:
    """Packs what is shipped to one target."""

    session: Session
    subject: Subject
    target: Target
    export: OnnxStage
    name: str = "bundle"
    record: type[BundleRecord] = BundleRecord

    @property
    def place(self) -> str:
        """``bundles/pruned/fp32@host-cpu``."""
        return bundle_place(self.subject)

    @property
    def needs(self) -> tuple[Need, ...]:
        """The exported net, and the one that it is of for its classes."""
        return (Need(self.export, ("model.onnx", GOLDEN)), Need(self.export.net, ("net.json",)))

    @property
    def settings(self) -> Mapping[str, Any]:
        """What stands in it beside the files."""
        # The whole target, as the manifest in the bundle repeats it for whoever carries the bundle to a board.
        return {"target": plain(self.target), "threat": plain(self.session.asked.threat)}

    def inputs(self) -> Mapping[str, str]:
        """Other packages' plug-ins, which travel with the agent."""
        return plugin_inputs()

    def run(self, work: Work) -> BundleRecord:
        """Pack."""
        trained, exported = work.of(self.export.net), work.of(self.export)
        record = pack(self.session.run.recipe, self.target, trained, exported, work)
        for note in record.notes:
            self.session.callback.say(f"note: {note}")
        return record
