"""Import: a net that others trained takes the place of a trained one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustdeploy.core.records import NetRecord
from robustdeploy.core.subject import IMPORTED
from robustdeploy.engine.places import net_place
from robustdeploy.engine.run import training_content
from robustdeploy.engine.stage import Need, Work
from robustdeploy.nets.store import load_info
from robustdeploy.stages.session import Session
from robustdeploy.stages.train import costs_text
from robustdeploy.train.import_net import import_net, imported_files


@dataclass(frozen=True)
class Import:
    """Copies a stored net into the run and counts what it costs."""

    session: Session
    origin: Path
    """Folder that holds ``net.json`` and ``model.safetensors``; read only when the stage runs."""
    told: tuple[str, ...] = ()
    """How the net came into that folder, where it was a file of others."""
    name: str = "import"
    record: type[NetRecord] = NetRecord
    needs: tuple[Need, ...] = ()
    place: str = net_place(IMPORTED)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The budget, which its costs are compared with."""
        return {"budget": training_content(self.session.asked)["budget"]}

    def inputs(self) -> Mapping[str, str]:
        """The images that are set aside, and the net's two files."""
        return {"images": self.session.training_data.digest, **imported_files(self.origin)}

    def run(self, work: Work) -> NetRecord:
        """Copy and count."""
        session = self.session
        info = load_info(self.origin)
        record = import_net(session.asked, info, session.training_data, self.origin, work, session.trust, self.told)
        session.callback.say(f"import: {costs_text(record)}{'' if self.told else f', from {self.origin}'}")
        for line in self.told:
            session.callback.say(f"note: {line}")
        return record
