"""Refusals: how long a user waits to be told of a mistake that the words of the command already show.

    python benchmarks/refusals.py

Each mistake is made in a process of its own, in a folder with a run that was begun; what is timed is the whole process.
Two seconds is the house's limit, so none of them may load torch. Beside the time by the clock stands the processor's
own, which other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

RULE = "gate=[{id: RD-ACC-01, metric: clean_accuracy, at_least: 0.5, n_at_least: 300}]"
RARE = "gate=[{id: RD-LAT-01, metric: latency_ms.p99.9, at_most: 10}]"
MISTAKES: dict[str, Sequence[str]] = {
    "run name with a space": ["run", "--name", "my run"],
    "run name that is a path": ["prune", "--name", "../elsewhere"],
    "run name 'latest'": ["run", "--name", "latest"],
    "run name of another recipe": ["prune", "--name", "begun", "--seed", "7"],
    "--runs is a file": ["prune", "--runs", "notes.txt"],
    "--runs below a file": ["run", "--runs", "notes.txt/runs"],
    "--runs unwritable": ["prune", "--runs", "/proc/runs"],
    "--data missing": ["run", "cifar10-resnet20", "--data", "nowhere"],
    "--data not given": ["run", "cifar10-resnet20"],
    "--data is a file": ["prune", "cifar10-resnet20", "--data", "notes.txt"],
    "--data of another layout": ["prune", "cifar10-resnet20", "--data", "empty"],
    "--data for a set without": ["prune", "--data", "nowhere"],
    "unknown data set": ["prune", "--set", "data.name=digit"],
    "--start missing": ["prune", "--start", "nowhere"],
    "--start is no net": ["prune", "--start", "empty"],
    "--start of another net": ["prune", "--start", "other"],
    "--start compact": ["prune", "--start", "compact"],
    "too few epochs for a task": ["prune", "--set", "train.task=free", "--set", "train.epochs=4"],
    "no phase for a pruner": ["prune", "--set", "train.phases=[{name: tune, train: weights}]"],
    "plan: too few epochs for a task": ["plan", "--set", "train.task=free", "--set", "train.epochs=4"],
    "latency without a unit": ["prune", "--latency-target", "5"],
    "latency in no unit of time": ["prune", "--latency-target", "5MB"],
    "latency without a profile": ["prune", "--latency-target", "5ms"],
    "latency on an emulated target": ["prune", "--latency-target", "0.5", "--target", "aarch64-emulated"],
    "unknown recipe": ["run", "digits-resnet9"],
    "recipe file missing": ["run", "mine.yaml"],
    "recipe is a folder": ["run", "empty"],
    "unknown target": ["run", "--target", "jetson-orni"],
    "target file missing": ["export", "begun", "--target", "nowhere.yaml"],
    "recipe given as target": ["run", "--target", "tiny.yaml"],
    "target given as recipe": ["run", "quick.yaml"],
    "unknown net": ["run", "--set", "net=resnt8"],
    "unknown net like torchvision's": ["run", "--set", "net=resnet51"],
    "factory of no module": ["run", "--set", "net=nowhere.at_all:factory"],
    "factory that its file lacks": ["run", "--set", "net=my_nets:Smal"],
    "unknown option of a net": ["run", "--set", "net={name: resnet8, widht: 8}"],
    "unknown attack": ["run", "--set", "evaluate.attacks=[sqare]"],
    "unknown option of an attack": ["run", "--set", "evaluate.attacks.1.stpes=3"],
    "unknown value of an option": ["run", "--set", "evaluate.attacks.1.loss=margn"],
    "value out of range": ["run", "--set", "evaluate.attacks.1.steps=0"],
    "an attack twice": ["run", "--set", "evaluate.attacks=[fgsm, fgsm]"],
    "unknown task": ["prune", "--set", "train.task=fastta"],
    "unknown option of a task": ["prune", "--set", "train.task.alhpa=0.1"],
    "unknown pruner": ["prune", "--set", "prune=maks"],
    "unknown option of a pruner": ["prune", "--set", "prune.raito=0.5"],
    "unknown device": ["prune", "--set", "train.device=gpu"],
    "misspelt key": ["prune", "--set", "trian.epochs=3"],
    "value of another kind": ["prune", "--set", "train.epochs=ten"],
    "--set without a value": ["prune", "--set", "train.epochs"],
    "eps in grey levels": ["run", "--set", "threat.eps=8"],
    "--ops-target out of range": ["prune", "--ops-target", "1.5"],
    "--ops-target no number": ["prune", "--ops-target", "thirty"],
    "--seed negative": ["prune", "--seed=-1"],
    "rule of more images than there are": ["prune", "--set", "evaluate.limit=64"],
    "rule of more images, of a run": ["run", "tiny.yaml", "--set", "evaluate.limit=64", "--set", RULE],
    "plan: rule of more images": ["plan", "--set", "evaluate.limit=64"],
    "rule of more samples than a target takes": ["run", "--set", RARE, "--target", "hasty.yaml"],
    "run not there": ["export", "nowhere"],
    "sweep: one value of several is wrong": ["sweep", "--over", "budget.ops=0.3,30"],
    "sweep: a name that is a path": ["sweep", "--over", "seed=0,1", "--name", "../elsewhere"],
    "sweep: the name of a run": ["sweep", "--over", "seed=0,1", "--name", "begun"],
    "table: unknown comparison": ["table", "digits-resnet9"],
    "table: unknown row in --only": ["table", "digits-resnet8", "--only", "in-trian"],
    "table: a name that is a path": ["table", "--name", "../elsewhere"],
    "table: the name of a run": ["table", "--name", "begun"],
    "table: unknown target": ["table", "--target", "host-cpuu"],
    "table: --data missing": ["table", "cifar10-resnet20", "--data", "nowhere"],
    "table: what is a row's own": ["table", "--set", "prune=weights"],
    "table: unknown recipe in a plan": ["table", "plans/recipe.yaml"],
    "table: rows after each other": ["table", "plans/cycle.yaml"],
    "table: impossible budget in a plan": ["table", "plans/budget.yaml"],
    "table: unknown pruner in a plan": ["table", "plans/pruner.yaml"],
    "table: a row too short for its task": ["table", "plans/epochs.yaml"],
    "table: a limit without a profile": ["table", "plans/latency.yaml"],
    "profile: unknown target": ["profile", "--target", "host-cpuu"],
    "profile: an emulated target": ["profile", "--target", "aarch64-emulated"],
    "profile: unknown precision": ["profile", "--precision", "int4"],
    "profile: unknown recipe": ["profile", "digits-resnet9"],
    "profile: unknown net": ["profile", "--set", "net=resnt8"],
    "profile: --data not given": ["profile", "cifar10-resnet20"],
    "evaluate: run not there": ["evaluate", "nowhere"],
    "evaluate: a weights file": ["evaluate", "mine.pt"],
    "evaluate: an ONNX file": ["evaluate", "model.onnx"],
    "evaluate: a folder that is no run": ["evaluate", "empty"],
    "evaluate: unknown target": ["evaluate", "begun", "--target", "host-cpuu"],
    "evaluate: unknown attack": ["evaluate", "begun", "--attacks", "sqare"],
    "evaluate: --limit 0": ["evaluate", "begun", "--limit", "0"],
    "evaluate: changes the training": ["evaluate", "begun", "--set", "train.epochs=3"],
    "evaluate: --recipe for a run": ["evaluate", "begun", "--recipe", "digits-resnet8"],
    "evaluate: a net without a recipe": ["evaluate", "stored"],
    "evaluate: a net, --recipe unknown": ["evaluate", "stored", "--recipe", "digits-resnet9"],
    "evaluate: a net, --data missing": ["evaluate", "stored", "--recipe", "cifar10-resnet20", "--data", "nowhere"],
    "evaluate: stage before it missing": ["evaluate", "begun"],
    "evaluate: --data missing": ["evaluate", "begun", "--data", "nowhere"],
    "export: stage before it missing": ["export", "begun"],
    "export: unknown target": ["export", "begun", "--target", "jetson-orni"],
    "report: run not there": ["report", "nowhere"],
    "report: unknown format": ["report", "begun", "--format", "pfd"],
    "report: nothing evaluated": ["report", "begun"],
    "gate: run not there": ["gate", "nowhere"],
    "gate: no report yet": ["gate", "begun"],
    "gate: rules missing": ["gate", "begun", "--rules", "nowhere.yaml"],
    "verify: run not there": ["verify", "nowhere"],
    "compare: run not there": ["compare", "begun", "nowhere"],
    "doctor: unknown target": ["doctor", "--target", "jetson-orni"],
    "validate: unknown net in a file": ["validate", "wrong.yaml"],
    "ls: unknown kind": ["ls", "recipies"],
    "unknown command": ["prnue"],
    "unknown option": ["prune", "--epochs", "3"],
}
"""What is wrong, and the words of the command."""

_ROWS = "rows: [{name: a, prune: masks}]\n"
_PLAN = "name: plan\nrecipe: digits-resnet8\n"
_NET = '{{"net": {{"name": "{}", "options": {{"width": 24}}}}, "modules": {{{}}}}}'
_FILES = {
    "plans/recipe.yaml": f"name: plan\nrecipe: nowhere.yaml\n{_ROWS}",
    "plans/cycle.yaml": f"{_PLAN}rows: [{{name: a, prune: masks, after: b}}, {{name: b, prune: masks, after: a}}]\n",
    "plans/budget.yaml": f"{_PLAN}budget: {{ops: 30}}\n{_ROWS}",
    "plans/pruner.yaml": f"{_PLAN}rows: [{{name: a, prune: maks}}]\n",
    "plans/epochs.yaml": f"{_PLAN}rows: [{{name: a, prune: masks, train: {{task: free, epochs: 4}}}}]\n",
    "plans/latency.yaml": f"{_PLAN}budget: {{latency: {{target: host-cpu, at_most: 5ms}}}}\n{_ROWS}",
    "other/net.json": _NET.format("vgg16-bn", ""),
    "other/model.safetensors": "",
    "compact/net.json": _NET.format("resnet8", '"net.conv": {"inputs": 1, "outputs": 3}'),
    "compact/model.safetensors": "",
    "tiny.yaml": "name: begun\nnet: resnet8\nbudget: {ops: 0.3}\n",
    "quick.yaml": "extends: host-cpu\nname: quick\n",
    "hasty.yaml": "extends: host-cpu\nname: hasty\nlatency: {warmup_s: 0.01, min_s: 0.05, min_samples: 100}\n",
    "wrong.yaml": "name: wrong\nnet: resnt8\n",
    "notes.txt": "nothing\n",
    "my_nets.py": "class Small:\n    pass\n",
    "stored/net.json": "{}",
    "stored/model.safetensors": "",
    "mine.pt": "PK\x03\x04",
    "model.onnx": "\x08\x08",
}


def prepare(folder: Path) -> Path:
    """Lay out what the mistakes refer to: files, an empty folder, and a run that was begun and has no stage yet.

    Nothing of the stored net is read before its recipe and its data set are found, so its two files may be empty.
    """
    from robustdeploy.core.load import load_recipe
    from robustdeploy.engine.run import Run

    for name, text in _FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "empty").mkdir()
    Run.for_recipe(folder / "runs", load_recipe(folder / "tiny.yaml"), "begun")
    return folder


def main(words: Sequence[str] | None = None) -> int:
    """Time every mistake and print medians (by the clock, of the processor) and exit codes, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(words)
    found = []
    with tempfile.TemporaryDirectory() as base:
        start = Path(base, "prepared")
        start.mkdir()
        prepare(start)
        for what, command in MISTAKES.items():
            row = {"mistake": what, **_timed(start, Path(base, "here"), command, options.rounds)}
            found.append(row)
            if not options.json:
                times = f"{row['seconds']:6.2f} s  {row['cpu_seconds']:6.2f} s"
                print(f"{times}  exit {row['code']}  {what}: {row['said']}", flush=True)
    if options.json:
        print(json.dumps(found, indent=2))
    return 0


def _timed(start: Path, here: Path, command: Sequence[str], rounds: int) -> dict[str, Any]:
    times, busy, done = [], [], None
    for _ in range(rounds):
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(start, here, symlinks=True)
        began, before = time.perf_counter(), os.times()
        done = subprocess.run(
            [sys.executable, "-m", "robustdeploy", *command],
            cwd=here,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
            capture_output=True,
            text=True,
            check=False,
        )
        times.append(time.perf_counter() - began)
        after = os.times()
        busy.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert done is not None
    said = done.stderr.strip().splitlines()[-1:] or [""]
    return {"seconds": median(times), "cpu_seconds": median(busy), "code": done.returncode, "said": said[0][:300]}


if __name__ == "__main__":
    sys.exit(main())
