"""Preparing: what a pruner searches or measures before the first step that trains scores, an item at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from robustdeploy.core.interrupts import interrupted, stop_if_interrupted
from robustdeploy.cost.module import evaluating
from robustdeploy.errors import Interrupted, TrainingError
from robustdeploy.onboard.draws import key
from robustdeploy.onboard.types import Threat
from robustdeploy.prune.protocol import Judge, Prepared, Preparing, Pruning, load_own_state, own_state
from robustdeploy.train import ranks
from robustdeploy.train.batched import in_batches
from robustdeploy.train.batches import Batches
from robustdeploy.train.bn_recalibration import averaged, batch_norms
from robustdeploy.train.checkpointing import Checkpointing
from robustdeploy.train.passes import Passes
from robustdeploy.train.plan import Plan
from robustdeploy.train.training import Training
from robustdeploy.train.validation import VALIDATED


@dataclass
class HeldOut:
    """What a pruner may look at; every process looks at all of it."""

    plan: Plan
    passes: Passes
    threat: Threat = field(init=False)
    seed: int = field(init=False)

    def __post_init__(self) -> None:
        self.threat, self.seed = self.plan.threat, self.plan.seed

    def judged(self, net: nn.Module, judge: Judge) -> Tensor:
        """Return the rows of at most VALIDATED held-out images, under noise of their own."""
        with evaluating(net), torch.no_grad(), self.passes.counted(net, 1):
            noise = key(self.plan.seed, "look")
            return in_batches(judge, self.plan.validation.first(VALIDATED), noise, self.plan.options.batch_size)

    def settle(self, net: nn.Module, batches: int) -> None:
        """Average over the first batches of a pass that the training never makes, as they are, not attacked."""
        if not (layers := batch_norms(net)):
            return
        drawn = Batches(self.plan)
        # Of the layers alone: dropout would draw numbers, and a search must not depend on a generator's state.
        with evaluating(net), torch.no_grad(), averaged(layers), self.passes.counted(net, 1):
            for layer in layers:
                layer.train()
            for position in range(min(batches, self.plan.steps_per_epoch)):
                net(drawn.of_epoch(self.plan.epochs, position).images)


def prepare(training: Training, checkpointing: Checkpointing) -> bool:
    """Let the pruner prepare, or go on, where that is due; return whether it did anything.

    It is saved every few seconds and at its end. Raises Interrupted, and what is done so far is saved.
    """
    pruning = training.pruning
    if not isinstance(pruning, Preparing) or not _is_due(training):
        return False
    items, began = 0, time.monotonic()
    look = HeldOut(training.plan, Passes(**training.search.get("passes", {})))
    spent = float(training.search.get("seconds", 0.0))
    try:
        for item in _agreed(pruning.prepare(look), training):
            items += 1
            training.search = _record(item, look.passes, spent + time.monotonic() - began)
            checkpointing.tell_preparation(item)
            if _asked_to_stop(training):
                stop_if_interrupted()
                checkpointing.save(training)
                raise TrainingError("another process of this training was asked to stop; repeat the command to go on")
            if _due_together(training, checkpointing):
                checkpointing.save(training)
    except Interrupted:
        checkpointing.save(training)
        raise
    if items:
        checkpointing.save(training)
    return items > 0


def _is_due(training: Training) -> bool:
    """Whether the next step is the first one of all that train scores."""
    first = next((n for n, phase in enumerate(training.plan.phases) if phase.train != "weights"), None)
    return training.number == first and training.step == training.plan.first_step(training.number)


def _agreed(items: Iterator[Prepared], training: Training) -> Iterator[Prepared]:
    """Yield the items, with the first process's tensors in all: no two round alike on every machine."""
    pruning: Pruning | None = training.pruning
    assert pruning is not None
    for item in items:
        if ranks.world() > 1:
            content = None
            if ranks.rank() == 0:
                content = save({name: value.cpu().contiguous() for name, value in own_state(pruning).items()})
            load_own_state(pruning, load(ranks.shared(content, training.device) or b""))
        yield item


def _record(item: Prepared, passes: Passes, seconds: float) -> dict[str, object]:
    return {
        "what": item.what,
        "items": item.done,
        "passes": asdict(passes),
        "seconds": round(seconds, 3),
        "numbers": dict(item.numbers),
    }


def _asked_to_stop(training: Training) -> bool:
    """Whether a signal has come, to any of the processes."""
    return bool(ranks.mean(torch.tensor(float(interrupted()), device=training.device)) > 0)


def _due_together(training: Training, checkpointing: Checkpointing) -> bool:
    due = float(checkpointing.due(training.plan.options.checkpoint_every_s))
    return bool(ranks.mean(torch.tensor(due, device=training.device)) > 0)
