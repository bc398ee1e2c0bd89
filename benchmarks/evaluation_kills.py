"""Kill an evaluation with SIGKILL at random moments, many times over, and look whether anything is lost or doubled.

A net is trained once. Each trial evaluates a copy of its run in a process of its own, which is killed and begun again
until it ends. Its outcomes must then be those of an evaluation that was left alone, bit for bit: each image stands
there once, whatever was sealed before a kill. The run's files must agree with its ledger.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from board_kills import fresh, outcomes
from kills import counted

from robustdeploy import api
from robustdeploy.core.load import load_recipe, load_target
from robustdeploy.engine.run import Run
from robustdeploy.engine.verify import verify_run
from robustdeploy.evaluate import attack

RECIPE = """\
name: kills
net: resnet8
threat: {norm: linf, eps: 0.1}
train: {task: fastat, epochs: 2, batch_size: 64, lr: 0.2, device: cpu}
budget: {ops: 0.3}
baseline: false
evaluate:
  limit: 96
  curve_limit: 30
  eps_curve: [1.0]
  attacks: [fgsm, {name: pgd, steps: 20, restarts: 2}, {name: square, queries: 300}, {name: rays, queries: 100}]
gate: []
"""
TARGET = """\
name: here
backend: {name: onnxruntime}
latency: {warmup_s: 0.01, min_s: 0.05, max_s: 1, min_samples: 20}
"""
PRELOADED = ["robustdeploy.api", "robustdeploy.stages.graph", "torch", "onnxruntime", "scipy.stats", "sklearn.datasets"]
"""Imported once, by the server that children are forked from; each of them would take seconds over it."""
BLOCK = 16
"""Images of a sealed block: a small evaluation has several to resume."""


def child(run: Path, target: Path) -> None:
    """Evaluate to the end, or until killed."""
    import torch

    torch.set_num_threads(1)
    attack.BLOCK = BLOCK
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    api.evaluate(Run.open(run, run.parent), load_target(target))


def evaluated(run: Path, target: Path, wait_s: float | None) -> int:
    """Evaluate in a process of its own, kill it after ``wait_s``, and return its exit status."""
    process = multiprocessing.get_context("forkserver").Process(target=child, args=(run, target))
    process.start()
    process.join(wait_s)
    if process.exitcode is None:
        os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    return process.exitcode or 0


def measured(run: Path) -> Path:
    """Return the folder of the one evaluation that a run has."""
    (found,) = (run / "boards" / "pruned").iterdir()
    return found


def doubled(folder: Path) -> bool:
    """Whether an image stands in the outcomes more than once, or any is missing."""
    with np.load(folder / "outcomes.npz", allow_pickle=False) as arrays:
        ids = arrays["ids"]
    return len(ids) != 96 or len(np.unique(ids)) != len(ids)


def campaign(kills: int, root: Path, seed: int) -> dict[str, Any]:
    """Kill until ``kills`` evaluations have died; begin with a fresh copy whenever one has ended."""
    (root / "kills.yaml").write_text(RECIPE)
    target = root / "target.yaml"
    target.write_text(TARGET)
    made = api.prune(load_recipe(root / "kills.yaml"), runs=root / "made", name="kills").root
    api.export(Run.open(made, made.parent), load_target(target))
    alone = fresh(made, root / "alone" / "kills")
    began = time.monotonic()
    if status := evaluated(alone, target, None):
        raise SystemExit(f"the evaluation that was left alone ended with status {status}")
    whole_s = time.monotonic() - began
    expected = outcomes(measured(alone))
    chance = random.Random(seed)
    done = {"kills": 0, "finished": 0, "failed": 0, "different": 0, "doubled": 0, "damaged": 0}
    run = fresh(made, root / "trial" / "kills")
    # A third of the whole on average: most evaluations are killed several times before their end.
    while done["kills"] < kills or not done["finished"]:
        status = evaluated(run, target, chance.expovariate(3 / whole_s))
        if status == -signal.SIGKILL:
            done["kills"] += 1
        elif status:
            done["failed"] += 1
            shutil.copytree(run, root / f"failed-{done['failed']}", symlinks=True)
            run = fresh(made, root / "trial" / "kills")
        else:
            done["finished"] += 1
            done["different"] += outcomes(measured(run)) != expected
            done["doubled"] += doubled(measured(run))
            done["damaged"] += bool(verify_run(run))
            run = fresh(made, root / "trial" / "kills")
        if sys.stderr.isatty() or (done["kills"] + done["finished"]) % 20 == 0:
            print(f"{done}", file=sys.stderr, flush=True)
    return {**done, "alone_s": round(whole_s, 1)}


if __name__ == "__main__":
    sys.exit(counted(campaign, ("failed", "different", "doubled", "damaged"), PRELOADED))
