"""Kill what an evaluation on a board hangs on, at random moments, and look whether anything is lost, doubled or left.

A net is trained once and evaluated on a board behind a real SSH server on loopback: this machine's own Python, or an
emulated board. Then the evaluation is repeated, each time with one kill: of the SSH client, of the server's session, of
the agent, of the process that guards it, of all of them, or of the server too. Each evaluation must end by itself, or
with status 4 and a sentence; then it is repeated until it ends. Its outcomes must be those of the one without a kill.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustdeploy import api
from robustdeploy.core.load import load_recipe, load_target
from robustdeploy.core.metrics import BY_CLOCK, METRICS
from robustdeploy.core.target import Target
from robustdeploy.devices import connection
from robustdeploy.devices.emulator import server
from robustdeploy.devices.emulator.folder import Folder, folder_at
from robustdeploy.devices.emulator.processes import processes_of
from robustdeploy.engine.run import Run
from robustdeploy.errors import EnvironmentFailure
from robustdeploy.evaluate import attack

KINDS = ("client", "session", "agent", "guard", "all", "server")
TRIES = 5
"""An evaluation that ended with status 4 is repeated so often at most."""
LEFT_S = 10.0
"""How long what was on the board may take to be gone."""
RECIPE = """\
name: kills
net: resnet8
threat: {norm: linf, eps: 0.1}
train: {task: fastat, epochs: 2, batch_size: 64, lr: 0.2, device: cpu}
budget: {ops: 0.3}
baseline: false
evaluate:
  limit: LIMIT
  curve_limit: 30
  eps_curve: [1.0]
  attacks: [fgsm, {name: square, queries: QUERIES}]
gate: []
"""
TARGET = """\
name: kills
backend: {name: onnxruntime}
link: {name: emulated, folder: FOLDER, grace_s: 1}
latency: {warmup_s: 0.01, min_s: 0.3, max_s: 5, min_samples: 100}
"""


@dataclass(frozen=True)
class Trial:
    """What became of one evaluation with one kill."""

    kind: str
    at_s: float
    killed: int
    """Processes; none where the evaluation had ended before, or had not begun."""
    ended: int
    """How often it ended with status 4 before it came to its end."""
    reconnected: int
    same: bool
    left: int
    words: str = ""
    """What it said where it ended."""


def own_board(path: Path) -> Folder:
    """Make a board of this machine's own Python, behind a server like that of an emulated one."""
    folder = folder_at(path)
    os.close(folder.taken())
    folder.python.parent.mkdir(parents=True)
    folder.python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    folder.python.chmod(0o755)
    folder.root.mkdir()
    folder.store.mkdir()
    folder.seal({"machine": platform.machine()})
    return folder


def victims(kind: str, board: Folder, running: server.Running) -> list[int]:
    """Return the processes that are killed for one kind of loss."""
    below = processes_of(running.pid, str(board.path))
    told = {pid: command(pid) for pid in below}
    found = {
        "session": [pid for pid, words in told.items() if words.startswith("sshd")],
        "guard": [pid for pid, words in told.items() if "robustdeploy-ready" in words],
        "agent": [pid for pid, words in told.items() if "/agent-" in words and "robustdeploy-ready" not in words],
        "client": [int(p.name) for p in Path("/proc").glob("[0-9]*") if is_client(int(p.name), board)],
    }
    if kind in found:
        return found[kind]
    everything = [*below, *found["client"]]
    return [running.pid, *everything] if kind == "server" else everything


def command(pid: int) -> str:
    """Return a process's command line."""
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def is_client(pid: int, board: Folder) -> bool:
    """Whether a process is an SSH client to the board."""
    words = command(pid)
    return words.startswith("ssh ") and f"-F {board.config} " in words


class Watcher(threading.Thread):
    """Looks for agents on the board, and keeps when the first was seen and when the last."""

    def __init__(self, board: Folder, running: server.Running) -> None:
        super().__init__(daemon=True)
        self.board, self.running, self.began = board, running, time.monotonic()
        self.over = threading.Event()
        self.seen: list[float] = []

    def run(self) -> None:
        """Look until it is over."""
        while not self.over.wait(0.1):
            if victims("session", self.board, self.running):
                self.seen.append(time.monotonic() - self.began)


class Killer(threading.Thread):
    """Kills once, ``at_s`` after it was started."""

    def __init__(self, kind: str, at_s: float, board: Folder, running: server.Running) -> None:
        super().__init__(daemon=True)
        self.kind, self.at_s, self.board, self.running = kind, at_s, board, running
        self.over = threading.Event()
        self.killed = 0

    def run(self) -> None:
        """Wait, look and kill; where nothing is on the board just then, whatever comes there next is killed."""
        if self.over.wait(self.at_s):
            return
        while not self.killed and not self.over.wait(0.02):
            for pid in victims(self.kind, self.board, self.running):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.killed += 1


def evaluated(run: Path, target: Target, said: list[str]) -> Path:
    """Evaluate, and return the folder of what was measured."""
    from robustdeploy.core.callback import Callback

    class Listening(Callback):
        """Keeps what was said."""

        def say(self, message: str) -> None:
            """Keep one line."""
            said.append(message)

    return api.evaluate(Run.open(run, run.parent), target, callback=Listening()).path.parent


def outcomes(folder: Path) -> dict[str, Any]:
    """Return what must not depend on a kill: every image and label, and every row but those of time."""
    rows = json.loads((folder / "rows.json").read_text())["measurements"]
    kept = [row for row in rows if METRICS[row["metric"]].support != "samples"]
    for row in kept:
        row["conditions"] = {name: value for name, value in row["conditions"].items() if name not in BY_CLOCK}
    with np.load(folder / "outcomes.npz", allow_pickle=False) as arrays:
        return {"rows": kept, "arrays": {name: arrays[name].tobytes() for name in sorted(arrays.files)}}


def fresh(made: Path, run: Path) -> Path:
    """Copy a run as it was before anything of it was on a board; what torch found on the host stays."""
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(made, run, symlinks=True)
    for folder in ("boards", "engines"):
        shutil.rmtree(run / folder, ignore_errors=True)
    return run


def tried(kind: str, at_s: float, board: Folder, target: Target, run: Path, alone: dict[str, Any]) -> Trial:
    """Evaluate, kill once, and repeat until it ends."""
    said: list[str] = []
    running = server.running(board) or server.start(board)
    killer = Killer(kind, at_s, board, running)
    killer.start()
    ended, words, folder = 0, "", None
    while folder is None and ended < TRIES:
        try:
            folder = evaluated(run, target, said)
        except EnvironmentFailure as error:
            ended, words = ended + 1, str(error)
            if server.running(board) is None:  # the fix that the sentence names
                server.start(board)
    killer.over.set()
    killer.join()
    now = server.running(board) or server.start(board)
    until = time.monotonic() + LEFT_S
    while (left := processes_of(now.pid, str(board.path))) and time.monotonic() < until:
        time.sleep(0.1)
    same = folder is not None and outcomes(folder) == alone
    lost = sum("connecting anew" in line for line in said)
    return Trial(kind, round(at_s, 2), killer.killed, ended, lost, same, len(left), words)


def trained(board: Folder, root: Path, limit: int) -> Path:
    """Train a small net and return its run."""
    queries = 30 if "qemu" in (board.facts or {}) else 600
    (root / "kills.yaml").write_text(RECIPE.replace("LIMIT", str(limit)).replace("QUERIES", str(queries)))
    return api.prune(load_recipe(root / "kills.yaml"), runs=root / "made", name="kills").root


def campaign(kills: int, board: Folder, root: Path, seed: int, limit: int, given: Path | None) -> dict[str, Any]:
    """Evaluate once alone, then with one kill each until ``kills`` have hit something; return the counts."""
    (root / "target.yaml").write_text(TARGET.replace("FOLDER", json.dumps(str(board.path))))
    target = load_target(root / "target.yaml")
    if "qemu" in (board.facts or {}):
        target = target.model_copy(update={"emulated": True})
    running = server.running(board) or server.start(board)
    # Small blocks, so that a small evaluation has several of them to seal and to resume.
    attack.BLOCK = 16
    run = trained(board, root, limit) if given is None else fresh(given, root / "given" / "kills")
    api.export(Run.open(run, run.parent), target)
    alone = outcomes(evaluated(run, target, []))
    again = fresh(run, root / "again" / "kills")
    watcher = Watcher(board, running)
    watcher.start()
    repeats = outcomes(evaluated(again, target, [])) == alone
    watcher.over.set()
    watcher.join()
    first, last = watcher.seen[0], watcher.seen[-1]
    print(f"on the board from {first:.1f} to {last:.1f} s of an evaluation", file=sys.stderr, flush=True)
    chance, trials = random.Random(seed), []
    # As after a cable that stays out: the host gives up in seconds here, and not after a minute.
    connection._PAUSES_S = (0.2, 0.5)
    while sum(trial.killed > 0 for trial in trials) < kills:
        kind = KINDS[len(trials) % len(KINDS)]
        copy = fresh(run, root / "trial" / "kills")
        began = time.monotonic()
        trials.append(tried(kind, chance.uniform(first, last), board, target, copy, alone))
        # A machine that is less busy now is through sooner, and a later moment would hit nothing.
        last = min(last, max(first + 1.0, time.monotonic() - began))
        print(f"{len(trials)}: {trials[-1]}", file=sys.stderr, flush=True)
    hit = [trial for trial in trials if trial.killed]
    return {
        "kills": len(hit),
        "by_kind": {kind: sum(trial.kind == kind for trial in hit) for kind in KINDS},
        "went_on": sum(trial.ended == 0 for trial in hit),
        "ended_with_4_then_resumed": sum(0 < trial.ended < TRIES for trial in hit),
        "on_the_board_s": round(last - first, 1),
        "unsteady_without_a_kill": int(not repeats),
        "never_finished": sum(trial.ended == TRIES for trial in hit),
        "different": sum(not trial.same for trial in hit),
        "left_on_the_board": sum(trial.left for trial in hit),
        "sentences": sorted({trial.words for trial in hit if trial.words}),
    }


def main() -> int:
    """Parse the command line, kill, and print what became of it as JSON; exit with 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=48, help="test images; a sealed block has 16 here")
    parser.add_argument("--board", type=Path, help="an emulated board, instead of this machine's own Python")
    parser.add_argument("--run", type=Path, help="a trained run, instead of one that is trained first")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        board = folder_at(options.board) if options.board else own_board(Path(root) / "board")
        ran = server.running(board) is not None
        try:
            done = campaign(options.kills, board, Path(root), options.seed, options.limit, options.run)
        finally:
            if not ran:
                server.stop(board)
    print(json.dumps(done, indent=2))
    lost = ("unsteady_without_a_kill", "never_finished", "different", "left_on_the_board")
    return int(any(done[name] for name in lost))


if __name__ == "__main__":
    sys.exit(main())
