"""Kill a training with SIGKILL at random moments, many times over, and look whether anything is lost or torn.

Each training is small and saves after every step. A child tells its parent every step that it has saved; after each
kill the newest sound checkpoint must be at least that step, and a training that was killed to pieces must end with
the weights and the log of one that was left alone, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from robustdeploy.core.recipe import Budget, Data, Threat, Train
from robustdeploy.data.load import load_data
from robustdeploy.nets.normalised import Normalised
from robustdeploy.nets.residual import ResidualNet
from robustdeploy.prune.masks import Masks
from robustdeploy.train.checkpoints import load_checkpoint
from robustdeploy.train.loop import fit
from robustdeploy.train.plan import Plan, single_phase
from robustdeploy.train.tasks.fastat import FastAt

STEPS_PER_EPOCH = 10
EPOCHS = 12
PRELOADED = ["robustdeploy.train.loop", "sklearn.datasets", "torch_pruning", "torch._dynamo", "scipy.stats"]
"""Imported once, by the server that children are forked from; each of them would take seconds over it."""


def child(folder: Path, pipe: Connection) -> None:
    """Train to the end, or until killed; say every step whose checkpoint is on the disk."""
    torch.set_num_threads(1)
    data = load_data(Data())
    torch.manual_seed(0)
    net = Normalised(ResidualNet(1, (4, 8, 8), 10, 1), [0.3], [0.4])
    pruning = Masks().wrap(net, (1, 8, 8), Budget(ops=0.4))
    options = Train(epochs=EPOCHS, batch_size=32, lr=0.1, precision="fp32", checkpoint_every_s=0)
    plan = Plan(
        train=data.train.select(torch.arange(32 * STEPS_PER_EPOCH)),
        validation=data.validation.select(torch.arange(48)),
        phases=(single_phase(FastAt(), options),),
        threat=Threat(eps=0.1),
        options=options,
        seed=0,
        shift=1,
    )

    def progress(step: int, steps: int, numbers: Mapping[str, float]) -> None:
        pipe.send(step - 1)  # the step before was saved before this one began

    trained = fit(net, pruning, plan, folder, progress)
    state = trained.net.state_dict()
    pipe.send({name: tensor.numpy().tobytes().hex() for name, tensor in state.items()})


def killed(folder: Path, wait_s: float) -> tuple[int, Any, int]:
    """Run a child and kill it after ``wait_s`` of training.

    Returns the last step it saved, its end if it came, and the exit status: minus SIGKILL unless it went by itself.
    """
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(folder, theirs))
    process.start()
    theirs.close()
    saved, end = 0, None
    deadline: float | None = None
    try:
        while True:
            if deadline is not None and not ours.poll(max(0.0, deadline - time.monotonic())):
                os.kill(process.pid or 0, signal.SIGKILL)
                deadline = None
                continue
            message = ours.recv()
            if deadline is None and end is None and process.exitcode is None:
                deadline = time.monotonic() + wait_s
            saved, end = (saved, message) if isinstance(message, dict) else (message, end)
    except EOFError:
        process.join()
    return saved, end, process.exitcode or 0


def campaign(kills: int, root: Path, seed: int) -> dict[str, Any]:
    """Kill until ``kills`` children have died; start a new training whenever one has ended."""
    _, alone, _ = killed(root / "alone", 3600.0)
    log = (root / "alone" / "metrics.jsonl").read_bytes()
    chance = random.Random(seed)
    done = {"kills": 0, "finished": 0, "crashed": 0, "lost": 0, "unreadable": 0, "different": 0}
    folder = root / "0"
    while done["kills"] < kills:
        saved, end, status = killed(folder, chance.expovariate(1 / 0.4))
        if end is None:
            done["kills"] += 1
            done["crashed"] += status != -signal.SIGKILL
            state = load_checkpoint(folder / "checkpoints")
            done["unreadable"] += state is None and saved > 0
            done["lost"] += state is not None and state.step < saved
        else:
            done["finished"] += 1
            done["different"] += end != alone or (folder / "metrics.jsonl").read_bytes() != log
            folder = root / str(done["finished"])
        if sys.stderr.isatty() or done["kills"] % 20 == 0:
            print(f"{done}", file=sys.stderr, flush=True)
    return done


def counted(campaign: Callable[[int, Path, int], dict[str, Any]], lost: Sequence[str], preloaded: list[str]) -> int:
    """Parse the command line, kill, and print what became of it as JSON; return 1 if anything of ``lost`` was."""
    parser = argparse.ArgumentParser(description="Kill with SIGKILL at random moments, and count what was lost.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    multiprocessing.get_context("forkserver").set_forkserver_preload(preloaded)
    with tempfile.TemporaryDirectory() as root:
        done = campaign(options.kills, Path(root), options.seed)
    print(json.dumps(done))
    return int(any(done[name] for name in lost))


if __name__ == "__main__":
    sys.exit(counted(campaign, ("crashed", "lost", "unreadable", "different"), PRELOADED))
