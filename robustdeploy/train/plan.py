"""Plan: all that determines a training, besides the net."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from robustdeploy.core.recipe import Train
from robustdeploy.data.images import Images
from robustdeploy.onboard.types import Threat
from robustdeploy.prune.protocol import PhaseInfo, Trainable
from robustdeploy.train.protocol import Replaying, Schedule, Task
from robustdeploy.train.schedules.one_cycle import OneCycle

FEWEST_STEPS_BETWEEN_CHECKS = 64
"""A probe or validation costs as much as several steps; epochs shorter than this are not checked one by one."""


@dataclass(frozen=True)
class PlannedPhase:
    """One phase of a training: what is trained, for how long, under which loss and at which rate."""

    name: str
    train: Trainable
    epochs: int
    objective: Task | Replaying
    lr: float
    """Peak of the learning rate."""
    schedule: Schedule = field(default_factory=OneCycle)
    select: Literal["best", "last"] = "last"
    """Which epoch's weights and masks the next phase begins with; of the last phase, those that are delivered."""
    first_epoch: int = 0
    """Epochs of the phases before it."""

    def rate(self, done: int, steps: int) -> float:
        """Return the learning rate of the step after ``done`` of the phase's ``steps``.

        Neither the first step nor the last has a rate of 0 on a schedule that begins or ends there.
        """
        return self.lr * self.schedule((done + 1) / (steps + 1))


def single_phase(objective: Task | Replaying, options: Train) -> PlannedPhase:
    """Return the one phase of a training that names none: weights and masks together, on one cycle."""
    return PlannedPhase("train", "both", options.epochs, objective, options.lr, select=options.select)


@dataclass(frozen=True)
class Plan:
    """Data, phases, threat, options and seed of one training."""

    train: Images
    validation: Images
    phases: tuple[PlannedPhase, ...]
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
        # A last smaller batch would weigh its images more, and several processes could not share it equally.
        return max(1, len(self.train.labels) // self.options.batch_size)

    @cached_property
    def epochs(self) -> int:
        """Epochs of the whole training."""
        return sum(phase.epochs for phase in self.phases)

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.steps_per_epoch * self.epochs

    def first_step(self, number: int) -> int:
        """Return the step that phase ``number`` begins with; behind the last phase, all steps."""
        return self.steps_per_epoch * sum(phase.epochs for phase in self.phases[:number])

    def phase_at(self, step: int) -> int:
        """Return the number of the phase that ``step`` is of."""
        # The highest, as phases without epochs begin at the same step as the next one.
        return max(number for number in range(len(self.phases)) if self.first_step(number) <= step)

    def info(self, number: int) -> PhaseInfo:
        """Return what a pruner is told of phase ``number``."""
        phase = self.phases[number]
        later = any(other.train != "weights" for other in self.phases[number + 1 :])
        steps, images = phase.epochs * self.steps_per_epoch, len(self.train.labels)
        return PhaseInfo(phase.name, phase.train, phase.epochs, steps, not later, images)

    def scored(self, step: int) -> float:
        """Return the share done, behind ``step`` steps, of all steps that train scores."""
        done = total = 0
        for number, phase in enumerate(self.phases):
            if phase.train != "weights":
                first, end = self.first_step(number), self.first_step(number + 1)
                done, total = done + min(max(step - first, 0), end - first), total + end - first
        return done / total if total else 0.0

    @property
    def probe_every(self) -> int:
        """Steps between two probes for catastrophic overfitting: a quarter of an epoch, or more where that is short."""
        return max(self.steps_per_epoch // 4, FEWEST_STEPS_BETWEEN_CHECKS)

    @property
    def validation_epochs(self) -> frozenset[int]:
        """Epochs (from 1) that end with a validation: all, or every few where epochs are short; each phase's last."""
        every = -(-FEWEST_STEPS_BETWEEN_CHECKS // self.steps_per_epoch)
        # The sign test between best and last epoch needs outcomes of the last.
        last = {phase.first_epoch + phase.epochs for phase in self.phases}
        return frozenset({*range(every, self.epochs + 1, every), *last})
