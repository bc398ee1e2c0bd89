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
import contextlib
import importlib
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import small_run
import torch

from robustdeploy.cli import group
from robustdeploy.cli import main as command_line
from robustdeploy.core.metrics import BY_CLOCK, METRICS

TARGET = ("--target", "quick.yaml")
COMMANDS: dict[str, Sequence[str]] = {
    "prune": ("prune", "tiny.yaml", "--name", "tiny"),
    "export": ("export", "runs/tiny", *TARGET),
    "evaluate": ("evaluate", "runs/tiny", *TARGET),
    "report": ("report", "runs/tiny"),
    "gate": ("gate", "runs/tiny"),
    "run": ("run", *small_run.WORDS),
    "table": ("table", "both.yaml"),
    "profile": ("profile", "tiny.yaml", *TARGET, "--seconds", "2"),
}
"""Each of the first makes what the next one needs."""
ALONE = ("run", "table", "profile")
"""These begin with nothing and go all the way."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
ENDS_S = 60.0
"""How long a command may take to come to a safe point on a busy machine."""
HEEDED_S = 5.0
"""A command that ends as usual this long after a signal has not heard it."""
GONE_S = 15.0
"""How long the processes that it started may take to notice that it is gone."""
PATIENCE_S = 600.0
FORK = multiprocessing.get_context("fork")
"""Libraries take longer to load than most commands to end."""
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


@dataclass(frozen=True)
class Started:
    """A command at work."""

    pid: int
    ended: Callable[[float], int | None]
    """Wait so many seconds and return the exit code, minus the signal's number where that ended it; None: it runs."""


def started(
    words: Sequence[str], folder: Path, mark: str, *, fresh: bool = False, most_bytes: int | None = None
) -> Started:
    """Start the command line in a process group and a temporary folder of its own; no file may have ``most_bytes``."""
    (folder / "tmp").mkdir(exist_ok=True)
    own = {MARK: mark, "TMPDIR": str(folder / "tmp"), "XDG_STATE_HOME": str(folder / "state"), "OMP_NUM_THREADS": "1"}
    if not fresh:
        forked = FORK.Process(target=_called, args=(words, folder, own, most_bytes))
        forked.start()
        return Started(forked.pid or 0, lambda seconds: (forked.join(seconds), forked.exitcode)[1])
    with (folder / "err").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "robustdeploy", *words],
            cwd=folder,
            env={**os.environ, **own},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=err,
            start_new_session=True,
        )

    def ended(seconds: float) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(seconds)
        return None

    return Started(process.pid, ended)


def _called(words: Sequence[str], folder: Path, own: Mapping[str, str], most_bytes: int | None) -> None:
    """Be the command line, in a process of its own."""
    os.setsid()
    os.chdir(folder)
    os.environ.update(own)
    tempfile.tempdir = None  # of the campaign, so far
    for number, name in ((0, os.devnull), (1, os.devnull), (2, "err")):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
    if most_bytes is not None:
        _pour(folder / "out")  # through a pipe, which no limit cuts short
    sys.stdout, sys.stderr = open(1, "w", encoding="utf-8"), open(2, "w", encoding="utf-8")  # noqa: SIM115
    sys.argv = ["robustdeploy", *words]
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    command_line()


def _pour(path: Path) -> None:
    """Have stderr written to ``path`` by another process, as limits are a process's own."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.close(write)
        with os.fdopen(read, "rb") as heard, path.open("wb") as file:
            while said := heard.read1():
                file.write(said)
                file.flush()
        os._exit(0)
    os.close(read)
    os.dup2(write, 2)
    os.close(write)


def loaded() -> None:
    """Have everything loaded that the commands need, so that their processes need not."""
    for name in ("api", *(f"cli.{command}" for command in group.COMMANDS), "evaluate.comparison", "stages.report"):
        importlib.import_module(f"robustdeploy.{name}")
    torch.set_num_threads(1)  # also so that this process may be forked
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(torch.nn.Flatten().eval(), (torch.zeros(2, 1, 8, 8),), dynamo=True)


def done(words: Sequence[str], folder: Path) -> Ended:
    """Give a command and leave it alone."""
    began = time.monotonic()
    code = started(words, folder, "").ended(PATIENCE_S)
    assert code is not None, f"{' '.join(words)} was not done after {PATIENCE_S:.0f} s"
    return Ended(code, time.monotonic() - began, (folder / "err").read_text(errors="replace"))


def left(mark: str, session: int) -> list[int]:
    """Return the processes of a trial that still run: by what they were given, or by the session of the command."""
    sought, found = f"{MARK}={mark}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, its, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            if state != "Z" and (int(its) == session or sought in (folder / "environ").read_bytes().split(b"\0")):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def contents(runs: Path) -> dict[str, Any]:
    """Return what a signal must not change: weights, files, images, and every row but those of time."""
    found: dict[str, Any] = {}
    for path in sorted(runs.rglob("*")):
        place = str(path.relative_to(runs))
        if path.suffix in (".safetensors", ".onnx") and "checkpoints" not in place:
            found[place] = path.read_bytes()
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                found[place] = {name: arrays[name].tobytes() for name in sorted(arrays.files)}
        elif path.name in ("rows.json", "report.json"):
            rows = json.loads(path.read_text())["measurements"]
            kept = [row for row in rows if METRICS[row["metric"]].support != "samples"]
            for row in kept:
                row["conditions"] = {name: value for name, value in row["conditions"].items() if name not in BY_CLOCK}
            found[place] = kept
    return found


def strewn(folder: Path) -> list[Path]:
    """Return the temporary files that a command has left; torch keeps a cache of its own between processes."""
    found = [path for path in (folder / "tmp").iterdir() if not path.name.startswith("torchinductor")]
    return found + [path for path in (folder / "runs").rglob(".*") if path.name != ".lock"]


def tried(name: str, number: signal.Signals, at_s: float, folder: Path, alone: Alone, *, fresh: bool) -> Trial:
    """Give a command, send it a signal, look round, and give it again."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(alone.before, folder, symlinks=True)
    mark, words = f"{name}-{number}-{at_s:.6f}", COMMANDS[name]
    process = started(words, folder, mark, fresh=fresh)
    began = time.monotonic()
    hit = process.ended(at_s) is None
    at_s, began = time.monotonic() - began, time.monotonic()
    if hit and number == signal.SIGINT:
        os.killpg(process.pid, number)
    elif hit:
        os.kill(process.pid, number)
    code, ended_s = process.ended(ENDS_S), time.monotonic() - began
    while (stayed := left(mark, process.pid)) and time.monotonic() < began + ended_s + GONE_S:
        time.sleep(0.1)
    for pid in stayed:
        os.kill(pid, signal.SIGKILL)
    said = (folder / "err").read_text(errors="replace")
    after = strewn(folder)
    checked, again = verified(folder), done(words, folder)
    usual = {-number} if number == signal.SIGKILL else {128 + number}
    faults = {
        f"did not end in {ENDS_S:.0f} s": code is None,
        f"exit code {code}": hit and code is not None and code not in {*usual, alone.code},
        "a traceback": any("Traceback" in each.err for each in (Ended(0, 0, said), checked, again)),
        "it was not heeded": hit and code == alone.code and ended_s > HEEDED_S,
        "no sentence": hit and code == 128 + number and "interrupted" not in said,
        f"{len(stayed)} processes stayed": bool(stayed),
        f"strewn: {', '.join(path.name for path in after)}": bool(after) and number != signal.SIGKILL,
        f"verify ended with {checked.code}": checked.code not in (0, 2),
        f"given again it ended with {again.code} and not {alone.code}": again.code != alone.code,
        "the run holds something else": contents(folder / "runs") != alone.contents,
        "not sound afterwards": verified(folder).code not in (0, alone.verify),
    }
    heard = f"{said[-700:]}\n{checked.err[-300:]}\n{again.err[-700:]}"
    found = tuple(fault for fault, there in faults.items() if there)
    shown = (round(at_s, 2), hit, code, round(ended_s, 1), checked.code, again.code)
    return Trial(name, number.name, *shown, heard, found)


def verified(folder: Path) -> Ended:
    """Verify all runs that are there; return the worst end, with all that was said."""
    runs = sorted(path.parent for path in (folder / "runs").rglob("ledger.jsonl"))
    ends = [done(("verify", str(run.relative_to(folder))), folder) for run in runs]
    return Ended(max((each.code for each in ends), default=0), 0, "".join(each.err for each in ends))


@dataclass(frozen=True)
class Alone:
    """What a command does that nobody interrupts."""

    before: Path
    code: int
    seconds: float
    contents: dict[str, Any]
    verify: int


def alone(root: Path, names: Sequence[str] = tuple(COMMANDS)) -> dict[str, Alone]:
    """Make a run stage by stage, and what is made at once; keep all as it was before each command of ``names``."""
    folder, found = small_run.written(root / "made"), {}
    fresh = shutil.copytree(folder, root / "before" / "fresh")
    # A stage needs those before it, whether these are asked for or not.
    needed = [name for name in COMMANDS if name in names or (name not in ALONE and set(names) - set(ALONE))]
    for name in needed:
        before = fresh if name in ALONE else shutil.copytree(folder, root / "before" / name, symlinks=True)
        here = shutil.copytree(fresh, root / f"whole-{name}") if name in ALONE else folder
        ended = done(COMMANDS[name], here)
        sound = verified(here).code
        found[name] = Alone(before, ended.code, ended.seconds, contents(here / "runs"), sound)
        print(f"{name}: {ended.seconds:.1f} s, exit {ended.code}, verify {sound}", file=sys.stderr, flush=True)
    return found


def campaign(trials: int, minutes: float, seed: int, root: Path, names: Sequence[str], *, fresh: bool) -> list[Trial]:
    """Interrupt each command in turn, by each signal in turn, at moments that chance names."""
    chance, usual, found = random.Random(seed), alone(root, names), []
    lasts = {name: its.seconds for name, its in usual.items()}
    end = time.monotonic() + 60 * minutes
    for index in range(trials):
        if time.monotonic() > end:
            break
        name, number = names[index % len(names)], SIGNALS[index // len(names) % len(SIGNALS)]
        # A process that was forked needs a moment until it is the command line.
        at_s = chance.uniform(0 if fresh else 0.3, max(0.5, lasts[name]))
        found.append(tried(name, number, at_s, root / "trial", usual[name], fresh=fresh))
        if not found[-1].hit:
            lasts[name] = min(lasts[name], found[-1].at_s)  # a machine that is less busy now is through sooner
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


def asked_for(about: str, campaign: Callable[[int, float, int, Path, Sequence[str]], Sequence[Any]]) -> int:
    """Parse the command line of a campaign on these commands, run it, and print what it found as JSON.

    The campaign takes trials, minutes, seed, a folder and the commands; each of its trials has ``command``, ``code``
    and ``faults``. Returns 1 after any fault.
    """
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", action="append", choices=list(COMMANDS), help="of these alone")
    options = parser.parse_args()
    names = options.command or list(COMMANDS)
    loaded()
    with tempfile.TemporaryDirectory() as root:
        found = campaign(options.trials, options.minutes, options.seed, Path(root), names)
    faults = dict(Counter(fault for trial in found for fault in trial.faults))
    codes = {name: dict(Counter(str(trial.code) for trial in found if trial.command == name)) for name in names}
    print(json.dumps({"trials": len(found), "codes": codes, "faults": faults}, indent=2))
    return int(bool(faults))


def main() -> int:
    """Parse the command line, interrupt, and print what became of it as JSON; exit with 1 after any fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", action="append", choices=list(COMMANDS), help="of these alone")
    parser.add_argument("--fresh", action="store_true", help="each command loads its libraries itself, too")
    options = parser.parse_args()
    names = options.command or list(COMMANDS)
    loaded()
    with tempfile.TemporaryDirectory() as root:
        found = campaign(options.trials, options.minutes, options.seed, Path(root), names, fresh=options.fresh)
    print(json.dumps(counted(found), indent=2))
    return int(any(trial.faults for trial in found))


if __name__ == "__main__":
    sys.exit(main())
