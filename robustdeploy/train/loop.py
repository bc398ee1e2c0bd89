"""The one training loop: any objective, with or without a pruner, phase by phase, resumable at every step.

A checkpoint holds tensors and counters; everything else is a function of the step (see batches.py). Once the masks
are frozen the net is made physically smaller and the rest of the training costs less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from robustdeploy.attacks.fgsm import Fgsm
from robustdeploy.core.callback import SILENT, Callback
from robustdeploy.core.interrupts import interrupted, stop_if_interrupted
from robustdeploy.cost.module import copied
from robustdeploy.data.images import pixels
from robustdeploy.data.noise import Noise
from robustdeploy.errors import Interrupted, TrainingError
from robustdeploy.onboard.draws import key
from robustdeploy.prune.compact import Proof, prove_equal
from robustdeploy.prune.protocol import Pruning
from robustdeploy.train import ranks
from robustdeploy.train.allocator import keep_freed_memory
from robustdeploy.train.batched import in_batches
from robustdeploy.train.batches import Batches
from robustdeploy.train.bn_recalibration import recalibrate
from robustdeploy.train.checkpointing import Checkpointing
from robustdeploy.train.passes import Passes
from robustdeploy.train.plan import Plan
from robustdeploy.train.preparing import prepare
from robustdeploy.train.protocol import Replaying
from robustdeploy.train.sentinel import CONFIRM, PROBE, collapse, sound, suspicious, vital_signs, watches
from robustdeploy.train.training import Best, Training
from robustdeploy.train.validation import significantly_better, validate

PROVED = 256
"""Held-out images, clean and attacked, on which the compact net is proved to be the masked one."""

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called after every step with (steps done, all steps, the latest numbers)."""


@dataclass(frozen=True)
class Trained:
    """What a training ends with."""

    net: nn.Module
    """The net to deliver, compact and in eval mode: ``best`` or ``last``."""
    best: nn.Module
    """The net of the validated epoch with the highest robust accuracy; the same object as ``last`` if that is it."""
    last: nn.Module
    """The net of the last step."""
    best_epoch: int
    """The epoch that ``best`` is of, from 1."""
    records: list[dict[str, Any]]
    events: list[dict[str, Any]]
    """What the sentinel had to do; empty in a healthy training."""
    proof: Proof | None
    """That the compact net scores like the masked one; None without a pruner."""
    conditions: list[dict[str, Any]]
    """From which step (``from_step``) it ran in which ``precision`` (``float32`` or ``bfloat16``) on how many
    ``processes``; one entry, unless it was resumed under other conditions."""
    passes: Passes
    """Of all steps."""
    search: dict[str, Any]
    """What the pruner prepared before it trained scores, as ``Searched`` has it; empty where it needed nothing."""
    seconds: float
    """How long the training took, its looks at held-out images included."""


def fit(
    net: nn.Module,
    pruning: Pruning | None,
    plan: Plan,
    folder: Path,
    progress: Progress,
    callback: Callback = SILENT,
    place: str = "train",
) -> Trained:
    """Train ``net`` in place, or the net under ``pruning`` until it is made smaller; return what came of it.

    ``callback`` hears of every epoch of the training in ``place``, the folder as the run calls it.

    Resumes from the newest sound checkpoint of ``folder/checkpoints``. On SIGINT or SIGTERM it saves and raises
    Interrupted. Raises TrainingError when a loss, gradient or weight stops being finite.
    """
    ranks.check_batch(plan.options.batch_size, len(plan.train.labels))
    training, checkpointing = Training(net, pruning, plan), Checkpointing(folder, plan.training, callback, place)
    if training.device.type == "cpu":
        keep_freed_memory()
    resumed = checkpointing.resume(training)
    checkpointing.write_log(training)  # as of the checkpoint, whatever was left there
    checkpointing.tell_history(training, anew=not resumed)
    with _own_generators(training.device):
        _train(training, checkpointing, progress)
        return _finished(training)


@contextmanager
def _own_generators(device: torch.device) -> Iterator[None]:
    """Leave the caller's random generators as they are, whatever a net with dropout draws."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _train(training: Training, checkpointing: Checkpointing, progress: Progress) -> None:
    """Make all steps that remain; every few of them look after the training's health, after each epoch record it."""
    plan = training.plan
    batches = Batches(plan, ranks.rank(), ranks.world())
    prepared = prepare(training, checkpointing)
    # The first probe comes only after some steps. A collapse before it must find a state to go back to, and what was
    # prepared need not be found again.
    if (training.step == 0 or prepared) and plan.options.sentinel and watches(training.task):
        checkpointing.save(training, healthy=True)
    while True:
        try:
            # Health comes before the epoch's record: a net that has collapsed must neither be validated nor become the
            # best.
            if not _healthy(training, checkpointing):
                continue
            if len(training.records) < training.step // plan.steps_per_epoch:
                _close_epoch(training, checkpointing)
        except Interrupted:  # between two looks at held-out images, which will be taken again
            checkpointing.save(training)
            raise
        if training.step == plan.steps:
            return
        # At the top of the loop, so that a training resumed exactly between two phases takes the same way.
        if training.step == plan.first_step(training.number + 1):
            _next_phase(training, checkpointing)
        numbers, wanted = _step(training, batches, checkpointing)
        progress(training.step, plan.steps, {**numbers, **_status(training)})
        # Of several processes all must stop at the same step, or the others wait in an all-reduce for ever.
        if wanted.stop or (interrupted() and ranks.world() == 1):
            checkpointing.save(training)
            stop_if_interrupted()
            raise TrainingError("another process of this training was asked to stop; repeat the command to go on")
        if wanted.save:
            checkpointing.save(training)


def _healthy(training: Training, checkpointing: Checkpointing) -> bool:
    """Probe for catastrophic overfitting where that is due; False after going back to the last sound state."""
    plan, step = training.plan, training.step
    # The last step is always probed: what is delivered must not be what collapsed since the last look.
    due = step == plan.steps or (step > 0 and step % plan.probe_every == 0)
    # A training resumed at this step has done the probe; a second one would enter the median twice.
    if not due or training.checked == step or not plan.options.sentinel or not watches(training.task):
        return True
    # 64 images have an error of several points. That is enough to suspect, and eight times as many decide.
    now = vital_signs(training.module, plan, PROBE, step)
    if suspicious(now, training.probes):
        now = vital_signs(training.module, plan, CONFIRM, step)
        if (reason := collapse(now, training.probes)) is not None:
            _go_back(training, checkpointing, reason)
            return False
    # Asked before the new signs are among those that they are compared with.
    is_sound = sound(now, training.probes)
    training.probes.append(now)
    training.checked = step
    checkpointing.save(training, healthy=is_sound)
    return True


def _go_back(training: Training, checkpointing: Checkpointing, reason: str) -> None:
    """Return to the last sound state, with the next safer task."""
    event = {"event": "catastrophic overfitting", "step": training.step, "reason": reason}
    task = repr(training.task)
    training.events = [*training.events, event]
    event |= {"task": task, "task_from_here": repr(training.task)}
    checkpointing.go_back(training)
    event["back_to_step"] = training.step
    # A kill right here would otherwise resume before the collapse without its event, and run into it again.
    checkpointing.save(training, healthy=True)
    checkpointing.tell_return(training, reason)


def _next_phase(training: Training, checkpointing: Checkpointing) -> None:
    """Hand on what the phase ends with, freeze the masks where no later phase trains them, and begin the next.

    All of it is a function of the state at the phase's end, so a checkpoint from there leads to the same.
    """
    pruning, ended = training.pruning, training.plan.info(training.number)
    # The weights first: masks are then solved for the net that the next phase really begins with.
    training.hand_on(best=training.phase.select == "best" and _best_is_better(training))
    if pruning is not None and not pruning.is_frozen and ended.trains_scores and ended.last_of_scores:
        pruning.finalize()
        _shrink(training)
    training.begin_phase(training.number + 1)
    prepare(training, checkpointing)
    if training.plan.options.sentinel and watches(training.task):
        checkpointing.save(training, healthy=True)


def _close_epoch(training: Training, checkpointing: Checkpointing) -> None:
    """Write down how the epoch went, on training batches and, mostly, on held-out images."""
    plan, epoch = training.plan, training.step // training.plan.steps_per_epoch
    means = {f"train_{name}": total / plan.steps_per_epoch for name, total in training.sums.items()}
    named = {"phase": training.phase.name} if len(plan.phases) > 1 else {}
    record: dict[str, Any] = {"epoch": epoch, **named, **means, **_status_of_epoch(training)}
    if epoch in plan.validation_epochs:
        with training.averaged() as module:
            outcome = validate(module, plan)
            record |= outcome.record()
            # Before the freeze a net keeps more than the budget allows; its accuracy would win and could not be
            # delivered.
            if training.may_be_kept and _is_best(outcome.robust, training.best):
                training.best = Best(epoch, outcome.robust, training.snapshot(), training.masks_snapshot())
            if epoch == training.phase.first_epoch + training.phase.epochs:
                training.last_robust = outcome.robust
    record |= _signals(training)
    training.records.append(record)
    training.sums = {}
    checkpointing.save(training)
    checkpointing.tell_epoch(training)  # safe now: after a kill it is not told again


def _status_of_epoch(training: Training) -> dict[str, float]:
    """Return the pruner's numbers at the end of an epoch, with the flips of that epoch alone."""
    status = dict(training.pruning.status()) if training.pruning else {}
    if "mask_flips" in status:
        # The pruner counts from the start of the training, since its counter is a buffer that survives a resume.
        status["mask_flips"] -= sum(record["mask_flips"] for record in training.records)
    return status


def _status(training: Training) -> Mapping[str, float]:
    """Return what the pruner keeps, now and then while that changes."""
    pruning = training.pruning
    # Every tenth step: asking brings numbers from the GPU, which waits for all work that is under way.
    return pruning.status() if pruning and training.shrunk_at is None and training.step % 10 == 0 else {}


def _is_best(robust: Tensor, best: Best | None) -> bool:
    """Of equals the later one."""
    return best is None or int(robust.sum()) >= int(best.robust.sum())


def _signals(training: Training) -> dict[str, float]:
    """Return the collapses so far and the latest probe's signals, for the log."""
    if not training.probes:  # none yet, or back at the start and on with a task that is not watched
        return {"collapses": len(training.events)} if training.events else {}
    latest = training.probes[-1]
    shown = ("fgsm", "pgd10", "alignment", "interior", "n")
    return {"collapses": len(training.events), **{f"probe_{name}": getattr(latest, name) for name in shown}}


@dataclass(frozen=True)
class _Wanted:
    """What the processes together want to happen after a step."""

    save: bool
    stop: bool


def _step(training: Training, batches: Batches, checkpointing: Checkpointing) -> tuple[dict[str, float], _Wanted]:
    """Make one optimiser step and return its numbers."""
    plan, step, task = training.plan, training.step, training.task
    training.note_conditions()
    batch = batches.at(step, task.replays if isinstance(task, Replaying) else 1)
    # Dropout draws from torch's global generator. Seeded in each step, a resumed training draws what it would have
    # drawn.
    torch.manual_seed(key(plan.seed, "dropout", step, ranks.rank()))
    training.set_rate()
    perturbation = _perturbation(training, batch.images)
    parts = training.engine(task, batch, perturbation)
    training.optimiser.zero_grad()
    training.backward(parts)
    # Before the optimiser: a gradient that is not finite must not reach the weights.
    numbers, wanted = _agreed(training, parts, checkpointing)
    if training.pruning is not None and training.loss.step is not None:
        # Here gradients are averaged over processes already, so the masks move alike on all of them.
        training.pruning.before_step(training.loss.step)
        training.loss.step = None  # its features hold the whole graph
    training.optimiser.step()
    training.step += 1
    if perturbation is not None:
        # The same backward pass as the weights': that a perturbation costs no pass of its own is the point of Free.
        gradient = cast(Tensor, perturbation.grad)
        training.perturbation = cast(Replaying, task).climb(perturbation.detach(), gradient, plan.threat)
    _after_step(training)
    for name, number in numbers.items():
        training.sums[name] = training.sums.get(name, 0.0) + number
    return numbers, wanted


def _perturbation(training: Training, images: Tensor) -> Tensor | None:
    """Return what a replaying task perturbs this batch by, as a leaf; None for all other tasks."""
    if not isinstance(training.task, Replaying):
        return None
    carried = training.perturbation
    return (training.task.start(images) if carried is None else carried).detach().requires_grad_()


def _agreed(
    training: Training, parts: Mapping[str, Tensor], checkpointing: Checkpointing
) -> tuple[dict[str, float], _Wanted]:
    """Average the step's numbers over the processes; refuse the step if anything is not finite."""
    norm = _gradient_norm(training.net.parameters())
    named = {**parts, "gradient_norm": norm.to(training.device)}
    if training.pruning is not None:
        moving = training.own_parameters() if training.trains_scores else []
        named["mask_gradient_norm"] = _gradient_norm(moving).to(training.device)
    # Clocks differ between processes and a signal may reach one alone, so both are asked about together.
    flags = [float(checkpointing.due(training.plan.options.checkpoint_every_s)), float(interrupted())]
    values = torch.stack([value.detach().float() for value in named.values()])
    # One exchange for everything: each waits for the slowest process, and on a GPU each read waits for the device.
    *shares, save, stop = ranks.mean(torch.cat([values, values.new_tensor(flags)])).tolist()
    numbers = dict(zip(named, shares, strict=True))
    # A NaN on one process is in the mean of all, so all of them stop here together.
    if not all(math.isfinite(number) for number in shares):
        raise TrainingError(
            f"the loss is {numbers['loss']} and its gradient's norm {numbers['gradient_norm']} at step "
            f"{training.step + 1} of {training.plan.steps}: give a lower train.lr, and the run a name of its own if it "
            "has one; it begins anew"
        )
    return numbers, _Wanted(save > 0, stop > 0)


def _gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the length of all their gradients together; 0 where there are none."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def _after_step(training: Training) -> None:
    """Let the pruner move its masks; when they have just been frozen, go on with the smaller net."""
    pruning, plan = training.pruning, training.plan
    if pruning is not None and not pruning.is_frozen:
        pruning.after_step(plan.scored(training.step))
        # A last phase that trains scores alone comes to its end unfrozen, and no phase follows that would freeze the
        # masks.
        if training.step == plan.steps and not pruning.is_frozen:
            pruning.finalize()
        if pruning.is_frozen:
            _shrink(training)
    training.follow_average()


def _shrink(training: Training) -> None:
    pruning, plan = cast(Pruning, training.pruning), training.plan
    training.best = None  # under masks that still moved, or of another shape
    if pruning.removes_channels and plan.shrink:
        training.shrink(_prove(pruning, plan))
    else:
        training.attach()


def _prove(pruning: Pruning, plan: Plan) -> Proof:
    """Compare masked and compact net on held-out images, clean and adversarial.

    On the CPU, whose float32 is float32: a GPU's convolutions may round to TF32.
    """
    masked, compact = copied(pruning.module).cpu(), pruning.compact().cpu().eval()
    held_out = plan.validation.first(PROVED).to(torch.device("cpu"))

    def attacked(images: Tensor, labels: Tensor, noise: Noise) -> Tensor:
        # Attacked images lie off the data, where a channel that is silent on clean images may speak.
        return Fgsm()(compact, images, labels, plan.threat, noise)

    # In the middle of a step there is nothing that could be saved, so a signal waits for its end.
    adversarial = in_batches(attacked, held_out, key(plan.seed, "proof"), plan.options.batch_size, stops=False)
    return prove_equal(masked, compact, pixels(held_out.images), adversarial, plan.options.batch_size)


def _finished(training: Training) -> Trained:
    """Recalibrate the nets of the last and the best epoch, make them compact, and choose the one to deliver."""
    plan, kept = training.plan, training.best
    # Statistics are settled behind this, on the averaged weights: those of the live ones would not fit them.
    if training.average is not None:
        training.net.load_state_dict({**training.net.state_dict(), **training.average})
    last = best = _delivered(training)
    if kept is not None and kept.epoch < plan.epochs:
        training.net.load_state_dict(kept.net)
        best = _delivered(training)
    proof = training.proof
    # A training that never shrank, or masks of single weights, are proved at the end instead.
    if training.pruning is not None and proof is None:
        proof = _prove(training.pruning, plan)
    return Trained(
        net=best if training.phase.select == "best" and _best_is_better(training) else last,
        best=best,
        last=last,
        best_epoch=plan.epochs if best is last or kept is None else kept.epoch,
        records=training.records,
        events=training.events,
        proof=proof,
        conditions=training.conditions,
        passes=training.passes,
        search=training.search,
        seconds=round(training.seconds, 3),
    )


def _best_is_better(training: Training) -> bool:
    """Whether an earlier epoch of the phase beats its last beyond chance."""
    best, last = training.best, training.last_robust
    return best is not None and last is not None and significantly_better(best.robust, last)


def _delivered(training: Training) -> nn.Module:
    """Return a copy of the net as it is now, with recalibrated statistics and without masks."""
    if training.plan.steps:  # a net that was not trained at all stays as it is
        recalibrate(training)
    if training.pruning is not None and training.shrunk_at is None:
        return training.pruning.compact().eval()
    return copied(training.net).eval()
