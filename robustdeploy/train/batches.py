"""Batches as a pure function of the step: which images, how augmented, under what noise.

Nothing random lives in a generator: the order of images, their augmentation and the attack's noise are functions of
(seed, epoch, sample). A resumed run repeats the very steps that an uninterrupted one would have made, and several
processes share a batch without having to agree on anything.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustdeploy.data.augment import NUMBERS, augment
from robustdeploy.data.noise import Noise
from robustdeploy.data.order import epoch_order
from robustdeploy.onboard.draws import key
from robustdeploy.train.plan import Plan


@dataclass(frozen=True)
class Batch:
    """Augmented pixels in [0, 1] (N×C×H×W), their labels, and the attack's noise for them."""

    images: Tensor
    labels: Tensor
    noise: Noise


class Batches:
    """The batches of a training, or one process's equal part of each."""

    def __init__(self, plan: Plan, rank: int = 0, world: int = 1) -> None:
        self._plan = plan
        self._rank, self._world = rank, world
        self._epoch = -1
        self._order: Tensor | None = None

    def at(self, step: int, replays: int = 1) -> Batch:
        """Return the batch of ``step``, for an objective that takes each batch ``replays`` times in a row."""
        number = self._plan.phase_at(step)
        done = step - self._plan.first_step(number)
        epoch, position = divmod(done // replays, self._plan.steps_per_epoch)
        return self.of_epoch(self._plan.phases[number].first_epoch + epoch, position)

    def of_epoch(self, epoch: int, position: int) -> Batch:
        """Return batch ``position`` of pass ``epoch`` over the images, both counted from 0."""
        plan, size = self._plan, self._plan.options.batch_size
        order = self._ordered(epoch)
        whole = order[position * size : (position + 1) * size]
        # The whole batch is drawn by every process, so that any number of them makes the same steps.
        indices = whole.tensor_split(self._world)[self._rank]
        images, labels = plan.train.images[indices], plan.train.labels[indices]
        if plan.shift or plan.mirror:
            # By the image's own index, not its place in the batch: it looks the same on however many processes.
            numbers = Noise(key(plan.seed, "augment", epoch), indices).uniform(0, (NUMBERS,))
            images = augment(images, numbers, plan.shift, plan.mirror)
        noise = Noise(key(plan.seed, "attack", epoch), indices)
        # In place, as the float copy is this batch's own and nobody else holds it.
        return Batch(images.float().div_(255), labels, noise)

    def _ordered(self, epoch: int) -> Tensor:
        # One order is kept, as the steps of an epoch follow each other; to sort all images for each step would be a
        # waste.
        if self._order is None or epoch != self._epoch:
            count = len(self._plan.train.labels)
            self._epoch, self._order = epoch, epoch_order(self._plan.seed, epoch, count)
            self._order = self._order.to(self._plan.train.labels.device)
        return self._order
