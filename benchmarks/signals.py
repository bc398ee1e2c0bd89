"""Interrupt commands at random moments, by Ctrl-C, SIGTERM and SIGKILL, and look whether anything is lost or left.

    python benchmarks/signals.py --trials 60

A small run is made stage by stage, and kept as it was before each of them. In each trial one command works on such a
copy and is sent one signal, at a moment between its start and its usual end. SIGINT goes to the whole process group,
as a terminal sends it; the others to the command alone. The command must end soon, without a traceback, with the
signal's exit code or, if it was just done, its own. No process and, but for SIGKILL, no temporary file may be left.
Then the same command is given again. It must end as without a signal, and the run must hold the same as without one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import small_run

from robustdeploy.core.metrics import METRICS

TARGET = ("--target", "quick.yaml")
COMMANDS: dict[str, Sequence[str]] = {
    "prune": ("prune", "tiny.yaml", "--name", "tiny"),
    "export": ("export", "runs/tiny", *TARGET),
    "evaluate": ("evaluate", "runs/tiny", *TARGET),
    "report": ("report", "runs/tiny"),
    "gate": ("gate", "runs/tiny"),
    "run": ("run", *small_run.WORDS),
}
"""Each makes what the next one needs; the last goes all the way."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
ENDS_S = 60.0
"""How long a command may take to come to a safe point on a busy machine."""
GONE_S = 15.0
"""How long the processes that it started may take to notice that it is gone."""
PATIENCE_S = 600.0
MARK = "ROBUSTDEPLOY_TRIAL"
"""An environment variable by which the processes of a trial are known."""


@dataclass(frozen=True)
class Trial:
    """What became of one command and one signal."""

    command: str
    signal: str
    at_s: float
    hit: bool
    """Whether the command still ran."""
    code: int | None
    ended_s: float
    verify: int
    again: int
    said: str
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    seconds: float
    err: str


def started(words: Sequence[str], folder: Path, mark: str) -> subprocess.Popen[str]:
    """Start the command line in a process group and a temporary folder of its own."""
    (folder / "tmp").mkdir(exist_ok=True)
    own = {MARK: mark, "TMPDIR": str(folder / "tmp"), "XDG_STATE_HOME": str(folder / "state"), "OMP_NUM_THREADS": "1"}
    with (folder / "err").open("w") as err:
        return subprocess.Popen(
            [sys.executable, "-m", "robustdeploy", *words],
            cwd=folder,
            env={**os.environ, **own},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=err,
            text=True,
            start_new_session=True,
        )


def done(words: Sequence[str], folder: Path) -> Ended:
    """Give a command and leave it alone."""
    began = time.monotonic()
    process = started(words, folder, "")
    code = process.wait(PATIENCE_S)
    return Ended(code, time.monotonic() - began, (folder / "err").read_text(errors="replace"))


def left(mark: str) -> list[int]:
    """Return the processes of a trial that still run."""
    sought, found = f"{MARK}={mark}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (
                sought in (folder / "environ").read_bytes().split(b"\0")
                and b") Z" not in (folder / "stat").read_bytes()
            ):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def contents(run: Path) -> dict[str, Any]:
    """Return what a signal must not change: weights, files, images, and every row but those of time."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        place = str(path.relative_to(run))
        if path.suffix in (".safetensors", ".onnx") and "checkpoints" not in place:
            found[place] = path.read_bytes()
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                found[place] = {name: arrays[name].tobytes() for name in sorted(arrays.files)}
        elif path.name in ("rows.json", "report.json"):
            rows = json.loads(path.read_text())["measurements"]
            found[place] = [row for row in rows if METRICS[row["metric"]].support != "samples"]
    return found


def tried(name: str, number: signal.Signals, at_s: float, before: Path, folder: Path, alone: Alone) -> Trial:
    """Give a command, send it a signal, look round, and give it again."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(before, folder, symlinks=True)
    mark, words = f"{name}-{number}-{at_s:.6f}", COMMANDS[name]
    process = started(words, folder, mark)
    time.sleep(at_s)
    hit, began = process.poll() is None, time.monotonic()
    if hit and number == signal.SIGINT:
        os.killpg(process.pid, number)
    elif hit:
        process.send_signal(number)
    try:
        code: int | None = process.wait(ENDS_S)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait() and None
    ended_s = time.monotonic() - began
    while (stayed := left(mark)) and time.monotonic() < began + ended_s + GONE_S:
        time.sleep(0.1)
    for pid in stayed:
        os.kill(pid, signal.SIGKILL)
    said, strewn = (folder / "err").read_text(errors="replace"), list((folder / "tmp").iterdir())
    strewn += [path for path in (folder / "runs").rglob(".*") if path.name != ".lock"]
    checked, again = done(("verify", "runs/tiny"), folder), done(words, folder)
    usual = {-number} if number == signal.SIGKILL else {128 + number}
    faults = {
        f"did not end in {ENDS_S:.0f} s": code is None,
        f"exit code {code}": hit and code is not None and code not in {*usual, alone.code},
        "a traceback": any("Traceback" in each.err for each in (Ended(0, 0, said), checked, again)),
        "no sentence": hit and code == 128 + number and "interrupted" not in said,
        f"{len(stayed)} processes stayed": bool(stayed),
        f"strewn: {', '.join(path.name for path in strewn)}": bool(strewn) and number != signal.SIGKILL,
        f"verify ended with {checked.code}": checked.code not in (0, 2),
        f"given again it ended with {again.code} and not {alone.code}": again.code != alone.code,
        "the run holds something else": contents(folder / "runs" / "tiny") != alone.contents,
        "not sound afterwards": done(("verify", "runs/tiny"), folder).code not in (0, alone.verify),
    }
    heard = f"{said[-700:]}\n{checked.err[-300:]}\n{again.err[-700:]}"
    found = tuple(fault for fault, there in faults.items() if there)
    shown = (round(at_s, 2), hit, code, round(ended_s, 1), checked.code, again.code)
    return Trial(name, number.name, *shown, heard, found)


@dataclass(frozen=True)
class Alone:
    """What a command does that nobody interrupts."""

    before: Path
    code: int
    seconds: float
    contents: dict[str, Any]
    verify: int


def alone(root: Path) -> dict[str, Alone]:
    """Make a run stage by stage; keep it as it was before each."""
    folder, found = small_run.written(root / "made"), {}
    fresh = shutil.copytree(folder, root / "before" / "run")
    for name, words in COMMANDS.items():
        before = fresh if name == "run" else shutil.copytree(folder, root / "before" / name, symlinks=True)
        if name == "run":
            folder = shutil.copytree(fresh, root / "whole")
        ended = done(words, folder)
        verified = done(("verify", "runs/tiny"), folder).code
        found[name] = Alone(before, ended.code, ended.seconds, contents(folder / "runs" / "tiny"), verified)
        print(f"{name}: {ended.seconds:.1f} s, exit {ended.code}, verify {verified}", file=sys.stderr, flush=True)
    return found


def campaign(trials: int, minutes: float, seed: int, root: Path, names: Sequence[str]) -> list[Trial]:
    """Interrupt each command in turn, by each signal in turn, at moments that chance names."""
    chance, usual, found = random.Random(seed), alone(root), []
    end = time.monotonic() + 60 * minutes
    for index in range(trials):
        if time.monotonic() > end:
            break
        name, number = names[index % len(names)], SIGNALS[index // len(names) % len(SIGNALS)]
        at_s = chance.uniform(0, 1.05 * usual[name].seconds)
        found.append(tried(name, number, at_s, usual[name].before, root / "trial", usual[name]))
        shown = asdict(found[-1])
        print(json.dumps(shown if found[-1].faults else {**shown, "said": ""}), file=sys.stderr, flush=True)
    return found


def counted(trials: Sequence[Trial]) -> dict[str, object]:
    """Return the counts: how many signals hit, how the commands ended, and every fault."""
    hit = [trial for trial in trials if trial.hit]
    return {
        "trials": len(trials),
        "hit": dict(Counter(f"{trial.command} {trial.signal}" for trial in hit)),
        "codes": dict(Counter(str(trial.code) for trial in hit)),
        "longest_to_end_s": max((trial.ended_s for trial in hit), default=0),
        "verify": dict(Counter(str(trial.verify) for trial in hit)),
        "faults": dict(Counter(fault for trial in trials for fault in trial.faults)),
    }


def main() -> int:
    """Parse the command line, interrupt, and print what became of it as JSON; exit with 1 after any fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", action="append", choices=list(COMMANDS), help="of these alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        found = campaign(options.trials, options.minutes, options.seed, Path(root), options.command or list(COMMANDS))
    print(json.dumps(counted(found), indent=2))
    return int(any(trial.faults for trial in found))


if __name__ == "__main__":
    sys.exit(main())
