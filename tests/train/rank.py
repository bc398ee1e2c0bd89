"""One of several processes of a small training; run by test_ranks.py. Writes what it ended with as JSON."""

from __future__ import annotations

import hashlib
import json
import sys
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

import torch

from robustdeploy.core.interrupts import catch_signals
from robustdeploy.core.recipe import Budget, Data, Train
from robustdeploy.cost.module import macs
from robustdeploy.data.load import load_data
from robustdeploy.nets.normalised import Normalised
from robustdeploy.nets.residual import ResidualNet
from robustdeploy.onboard.types import Threat
from robustdeploy.prune.masks import Masks
from robustdeploy.prune.scores import Scores
from robustdeploy.train import loop, ranks
from robustdeploy.train import plan as plans
from robustdeploy.train.loop import fit
from robustdeploy.train.plan import Plan, PlannedPhase, single_phase
from robustdeploy.train.tasks.fastat import FastAt
from robustdeploy.train.tasks.free import Free

PHASES = (
    PlannedPhase("pretrain", "weights", 1, FastAt(), 0.1),
    PlannedPhase("scores", "scores", 1, Free(replays=2), 0.1, first_epoch=1),
    PlannedPhase("fine-tune", "weights", 1, FastAt(), 0.05, first_epoch=2),
)


class Stop(Exception):
    """What ends a training as a lost process would."""


def digest(state):
    """Return one hash of all tensors of a state dict."""
    whole = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        whole.update(name.encode())
        whole.update(tensor.detach().contiguous().numpy().tobytes())
    return whole.hexdigest()


@contextmanager
def collapsing(step, sound_until):
    """Look after every second step and find the net collapsed, once, at ``step``; sound it was until another."""
    found = []
    with ExitStack() as patches:
        patches.enter_context(patch.object(plans, "FEWEST_STEPS_BETWEEN_CHECKS", 2))
        patches.enter_context(patch.object(loop, "suspicious", lambda now, before: now.step == step and not found))
        patches.enter_context(patch.object(loop, "collapse", lambda now, before: found.append(now) or "for a test"))
        patches.enter_context(patch.object(loop, "sound", lambda now, before: now.step <= sound_until))
        yield


def train(folder, task, stop_at):
    """Train ResNet-8 on digits under masks for twelve steps; end after ``stop_at`` of them as if killed."""
    data = load_data(Data())
    torch.manual_seed(0)
    net = Normalised(ResidualNet(1, (4, 8, 8), 10, 1), [0.3], [0.4])
    pruning = Masks(warmup=0.1, freeze=0.5).wrap(net, (1, 8, 8), Budget(ops=0.4))
    if task == "phases":
        pruning = Scores().wrap(net, (1, 8, 8), Budget(ops=0.4))
    if task == "spare head":
        net.head = torch.nn.Linear(8, 2)  # no part of the scores
    options = Train(
        epochs=3,
        batch_size=32,
        lr=0.1,
        precision="fp32",
        checkpoint_every_s=0,
        ema=0.9 if task == "collapse" else None,
    )
    plan = Plan(
        train=data.train.select(torch.arange(128)),
        validation=data.validation.select(torch.arange(24)),
        phases=PHASES if task == "phases" else (single_phase(Free() if task == "free" else FastAt(), options),),
        threat=Threat(eps=0.1),
        options=options,
        seed=0,
        shift=1,
    )
    steps = []

    def progress(step, total, numbers):
        steps.append(numbers["loss"])
        if step == stop_at:
            raise Stop

    with catch_signals(), collapsing(8, 4) if task == "collapse" else nullcontext():
        trained = fit(net, pruning, plan, folder, progress)
    return {
        "losses": steps,
        "net": digest(trained.net.state_dict()),
        "masks": {name: index.tolist() for name, index in pruning.kept().items()},
        "costs": dict(pruning.costs()),
        "dense": {"ops": macs(pruning.net, (1, 8, 8))},
        "records": trained.records,
        "events": trained.events,
    }


def main(jobs):
    """Train along in one job after the other, each ``folder task stop_at``; write every outcome beside its folder."""
    with ranks.joined(torch.device("cpu")):
        for folder, task, stop_at in jobs:
            try:
                outcome = train(Path(folder), task, stop_at)
            except Stop:
                continue
            Path(f"{folder}.rank{ranks.rank()}.json").write_text(json.dumps(outcome))
    # One that is left when the interpreter shuts down may abort the process.
    assert not [name for name in threads() if "gloo" in name]


def threads():
    """Return the names of this process's threads, those of C++ too."""
    return [task.joinpath("comm").read_text() for task in Path("/proc/self/task").glob("*")]


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
