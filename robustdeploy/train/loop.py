"""The one training loop: any task, with or without a pruner, resumable at every step.

Nothing random lives in a generator: the order of images, their augmentation and the attack's noise are functions of
(seed, epoch, sample), and a net's own dropout is seeded anew for each step. A checkpoint therefore holds tensors and
a counter, and a resumed run repeats the very steps that an uninterrupted one would have made.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustdeploy.attacks.pgd import Pgd
from robustdeploy.core.files import atomic_write_text, canonical_json
from robustdeploy.core.interrupts import interrupted, stop_if_interrupted
from robustdeploy.core.recipe import Train
from robustdeploy.cost.module import evaluating
from robustdeploy.data.augment import NUMBERS, augment
from robustdeploy.data.images import Images
from robustdeploy.data.noise import Noise
from robustdeploy.data.order import epoch_order
from robustdeploy.errors import TrainingError
from robustdeploy.onboard.draws import key
from robustdeploy.onboard.types import Threat
from robustdeploy.prune.protocol import Pruning
from robustdeploy.train.checkpoints import State, load_checkpoint, save_checkpoint
from robustdeploy.train.protocol import Task

BN_BATCHES = 100
"""Most batches over which the final statistics of batch normalisation are averaged."""


@dataclass(frozen=True)
class Plan:
    """All that determines a training, besides the net."""

    train: Images
    validation: Images
    task: Task
    threat: Threat
    options: Train
    seed: int
    shift: int = 0
    mirror: bool = False
    training: str = ""
    """Fingerprint of this training; checkpoints of any other are passed over."""

    @property
    def steps_per_epoch(self) -> int:
        """Full batches only; a smaller data set is one batch."""
        return max(1, len(self.train.labels) // self.options.batch_size)

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.steps_per_epoch * self.options.epochs


Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called after every step with (steps done, all steps, the latest numbers)."""


def fit(net: nn.Module, pruning: Pruning | None, plan: Plan, folder: Path, progress: Progress) -> list[dict[str, Any]]:
    """Train ``net`` in place, or the net under ``pruning``; return the log, one record per epoch.

    Resumes from the newest sound checkpoint of ``folder/checkpoints``. On SIGINT or SIGTERM it saves and raises
    Interrupted. Raises TrainingError when the loss stops being finite.
    """
    module: nn.Module = net if pruning is None else pruning  # type: ignore[assignment]
    run = _Run(module, _optimiser(net, pruning, plan), folder / "checkpoints", plan.training)
    run.resume()
    with _own_generators(next(net.parameters()).device):
        _train(module, pruning, run, plan, folder / "metrics.jsonl", progress)
        _settle_statistics(module, plan)
    return run.records


def _train(module: nn.Module, pruning: Pruning | None, run: _Run, plan: Plan, log: Path, progress: Progress) -> None:
    """Make all steps that remain, and write the log after each epoch."""
    module.train()
    run.write_log(log)  # as of the checkpoint, whatever was left there
    while len(run.records) < plan.options.epochs:
        for indices in _batches(plan, run):
            numbers = _step(module, pruning, run, plan, indices)
            progress(run.step, plan.steps, {**numbers, **(pruning.status() if pruning and run.step % 10 == 0 else {})})
            if interrupted() or run.due(plan.options.checkpoint_every_s):
                run.save()
                stop_if_interrupted()
        run.log(_epoch_record(module, pruning, run, plan))
        run.write_log(log)
        run.save()


@contextmanager
def _own_generators(device: torch.device) -> Iterator[None]:
    """Leave the caller's random generators as they are, whatever a net with dropout draws."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@dataclass
class _Run:
    """The moving parts of a training."""

    module: nn.Module
    optimiser: torch.optim.SGD
    folder: Path
    training: str
    step: int = 0
    records: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    saved_at: float = field(default_factory=time.monotonic)

    def resume(self) -> None:
        """Go back to the newest sound checkpoint, if there is one."""
        if (state := load_checkpoint(self.folder, self.training)) is None:
            return
        momenta = {k.removeprefix("momentum."): v for k, v in state.tensors.items() if k.startswith("momentum.")}
        self.module.load_state_dict({k.removeprefix("net."): v for k, v in state.tensors.items() if k[:4] == "net."})
        for number, parameter in enumerate(self._parameters()):
            if str(number) in momenta:
                self.optimiser.state[parameter]["momentum_buffer"] = momenta[str(number)].to(parameter.device)
        self.step, self.records, self.sums = state.step, state.values["records"], state.values["sums"]

    def save(self) -> None:
        """Write a checkpoint."""
        tensors = {f"net.{name}": tensor for name, tensor in self.module.state_dict().items()}
        for number, parameter in enumerate(self._parameters()):
            if (buffer := self.optimiser.state[parameter].get("momentum_buffer")) is not None:
                tensors[f"momentum.{number}"] = buffer
        values = {"records": self.records, "sums": self.sums}
        save_checkpoint(self.folder, State(self.step, tensors, values, self.training))
        self.saved_at = time.monotonic()

    def due(self, every_s: float) -> bool:
        """Whether the last checkpoint is older than ``every_s`` seconds."""
        return time.monotonic() - self.saved_at > every_s

    def log(self, record: dict[str, Any]) -> None:
        """Close an epoch."""
        self.records.append(record)
        self.sums = {}

    def write_log(self, path: Path) -> None:
        """Write one JSON line per epoch."""
        atomic_write_text(path, "".join(canonical_json(record) + "\n" for record in self.records))

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.optimiser.param_groups for parameter in group["params"]]


def _optimiser(net: nn.Module, pruning: Pruning | None, plan: Plan) -> torch.optim.SGD:
    options = plan.options
    groups: list[dict[str, Any]] = [{"params": list(net.parameters()), "name": "weights"}]
    groups += pruning.own_parameters() if pruning else []
    return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay)


def _batches(plan: Plan, run: _Run) -> Iterator[Tensor]:
    """Sample indices of the batches that remain in the epoch that has no record yet; there may be none."""
    epoch = len(run.records)
    done = run.step - epoch * plan.steps_per_epoch
    order = epoch_order(plan.seed, epoch, len(plan.train.labels)).to(plan.train.labels.device)
    size = plan.options.batch_size
    for batch in range(done, plan.steps_per_epoch):
        yield order[batch * size : (batch + 1) * size]


def _prepared(plan: Plan, indices: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
    """Return one batch, augmented, as pixels in [0, 1]."""
    images, labels = plan.train.images[indices], plan.train.labels[indices]
    if plan.shift or plan.mirror:
        numbers = Noise(key(plan.seed, "augment", epoch), indices).uniform(0, (NUMBERS,))
        images = augment(images, numbers, plan.shift, plan.mirror)
    return images.float().div_(255), labels


def _rate(step: int, plan: Plan) -> float:
    """One cycle: linear from 0 to the peak at half the training, and back to 0."""
    position = (step + 1) / (plan.steps + 1)
    return plan.options.lr * min(2 * position, 2 * (1 - position))


def _step(module: nn.Module, pruning: Pruning | None, run: _Run, plan: Plan, indices: Tensor) -> dict[str, float]:
    """Make one optimiser step and return its numbers."""
    epoch = run.step // plan.steps_per_epoch
    images, labels = _prepared(plan, indices, epoch)
    run.optimiser.param_groups[0]["lr"] = _rate(run.step, plan)
    torch.manual_seed(key(plan.seed, "dropout", run.step))
    with _autocast(plan, images.device):
        parts = plan.task(module, images, labels, plan.threat, Noise(key(plan.seed, "attack", epoch), indices))
    loss = parts["loss"] if pruning is None else parts["loss"] + pruning.penalty(run.step / plan.steps)
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    numbers = {name: float(value.detach()) for name, value in parts.items()}
    if not all(math.isfinite(number) for number in numbers.values()):
        raise TrainingError(
            f"the loss is {numbers['loss']} at step {run.step + 1} of {plan.steps}; the last healthy checkpoint is "
            "kept: lower train.lr and repeat the command"
        )
    run.optimiser.step()
    run.step += 1
    if pruning is not None:
        pruning.after_step(run.step / plan.steps)
    for name, number in numbers.items():
        run.sums[name] = run.sums.get(name, 0.0) + number
    return numbers


def _autocast(plan: Plan, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=plan.options.precision == "bf16")


def _epoch_record(module: nn.Module, pruning: Pruning | None, run: _Run, plan: Plan) -> dict[str, Any]:
    """Say how the epoch went, on training batches and on held-out images."""
    means = {f"train_{name}": total / plan.steps_per_epoch for name, total in run.sums.items()}
    status = dict(pruning.status()) if pruning else {}
    return {"epoch": run.step // plan.steps_per_epoch, **means, **status, **_validate(module, plan)}


def _validate(module: nn.Module, plan: Plan, most: int = 512) -> dict[str, float]:
    """Accuracy on held-out images, clean and under PGD-10, with the sample count."""
    images, labels = plan.validation.images[:most].float() / 255, plan.validation.labels[:most]
    noise = Noise(key(plan.seed, "validation"), torch.arange(len(labels), device=labels.device))
    with evaluating(module), torch.no_grad(), _autocast(plan, images.device):
        attacked = Pgd(steps=10)(module, images, labels, plan.threat, noise)
        clean, robust = ((module(x).argmax(1) == labels).float().mean() for x in (images, attacked))
    return {"validation_clean": float(clean), "validation_pgd10": float(robust), "validation_n": len(labels)}


def _settle_statistics(module: nn.Module, plan: Plan) -> None:
    """Average batch normalisation's statistics over the final net, on batches as training saw them."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain average instead of a decaying one
    module.train()
    torch.manual_seed(key(plan.seed, "dropout", plan.steps))
    epoch = plan.options.epochs
    order = epoch_order(plan.seed, epoch, len(plan.train.labels)).to(plan.train.labels.device)
    batches = torch.split(order, plan.options.batch_size)
    for indices in batches[: min(BN_BATCHES, plan.steps_per_epoch)]:
        images, labels = _prepared(plan, indices, epoch)
        plan.task(module, images, labels, plan.threat, Noise(key(plan.seed, "attack", epoch), indices))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    module.eval()
