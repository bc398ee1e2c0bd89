"""Train: the net under its budget, and the dense net beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robustdeploy.core.records import NetRecord
from robustdeploy.core.subject import PRUNED
from robustdeploy.engine.places import net_place
from robustdeploy.engine.run import training_content
from robustdeploy.engine.stage import Need, Work
from robustdeploy.stages.latency import latency_goal, profile_inputs
from robustdeploy.stages.session import Session
from robustdeploy.train.start import start_inputs
from robustdeploy.train.trainings import train_dense, train_pruned

_DENSE = ("data", "preprocess", "net", "threat", "train")
_PRUNED = (*_DENSE, "prune", "budget")


@dataclass(frozen=True)
class Train:
    """Trains one net of a run; rank 0 does so where there are several processes."""

    session: Session
    net: str
    name: str = "train"
    record: type[NetRecord] = NetRecord
    needs: tuple[Need, ...] = ()

    @property
    def place(self) -> str:
        """``nets/pruned`` or ``nets/dense``."""
        return net_place(self.net)

    @property
    def settings(self) -> Mapping[str, Any]:
        """All of the recipe that decides the weights; how the dense net is pruned decides none of its own."""
        content = training_content(self.session.asked)
        # So to change the budget trains the pruned net again and leaves the dense one, whose training is as long.
        return {part: content[part] for part in (_PRUNED if self.net == PRUNED else _DENSE) if part in content}

    def inputs(self) -> Mapping[str, str]:
        """The images, and the weights that the training begins with."""
        return {
            "images": self.session.training_data.digest,
            **start_inputs(self.session.asked),
            **(profile_inputs(self.session) if self.net == PRUNED else {}),
        }

    def run(self, work: Work) -> NetRecord:
        """Train, resuming from the newest checkpoint."""
        recipe, callback = self.session.asked, self.session.callback

        def progress(step: int, steps: int, numbers: Any) -> None:
            epochs = recipe.train.epochs
            numbers = {"epoch": step * epochs // steps, "epochs": epochs, **numbers}
            callback.progress(f"training {self.net}", step, steps, **numbers)

        data = self.session.training_data
        if self.net == PRUNED:
            record = train_pruned(recipe, data, work, progress, latency_goal(self.session, measuring=True))
        else:
            record = train_dense(recipe, data, work, progress)
        callback.say(f"{self.name}: {self.net}, {costs_text(record)}")
        return record


def costs_text(record: NetRecord) -> str:
    """Say what a net costs, beside the dense one where that is another."""
    if record.uncounted:
        return f"operations not counted ({record.uncounted}), {record.params:,} parameters"
    if record.macs == record.dense_macs:
        return f"{record.macs:,} MACs, {record.params:,} parameters"
    share = record.macs / record.dense_macs
    return f"{record.macs:,} of {record.dense_macs:,} MACs ({share:.4f}), {record.params:,} parameters"
