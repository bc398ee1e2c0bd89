"""Plan: all that determines a training, besides the net."""

from __future__ import annotations

from dataclasses import dataclass

from robustdeploy.core.recipe import Train
from robustdeploy.data.images import Images
from robustdeploy.onboard.types import Threat
from robustdeploy.train.protocol import Replaying, Task

FEWEST_STEPS_BETWEEN_CHECKS = 64
"""A probe or validation costs as much as several steps; epochs shorter than this are not checked one by one."""


@dataclass(frozen=True)
class Plan:
    """Data, task, threat, options and seed of one training."""

    train: Images
    validation: Images
    task: Task | Replaying
    threat: Threat
    options: Train
    seed: int
    shift: int = 0
    mirror: bool = False
    training: str = ""
    """Fingerprint of this training; checkpoints of any other are passed over."""
    shrink: bool = True
    """Go on with the compact net as soon as the masks are frozen; the numbers are the same either way."""

    @property
    def steps_per_epoch(self) -> int:
        """Full batches only; a smaller data set is one batch."""
        return max(1, len(self.train.labels) // self.options.batch_size)

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.steps_per_epoch * self.options.epochs

    @property
    def probe_every(self) -> int:
        """Steps between two probes for catastrophic overfitting: a quarter of an epoch, or more where that is short."""
        return max(self.steps_per_epoch // 4, FEWEST_STEPS_BETWEEN_CHECKS)

    @property
    def validation_epochs(self) -> frozenset[int]:
        """Epochs (from 1) that end with a validation: all, or every few where epochs are short; always the last."""
        every = -(-FEWEST_STEPS_BETWEEN_CHECKS // self.steps_per_epoch)
        return frozenset({*range(every, self.options.epochs + 1, every), self.options.epochs})
