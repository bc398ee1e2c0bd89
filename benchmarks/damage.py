"""Damage a run in every way that a file system allows, and look what each command says of it.

    python benchmarks/damage.py --trials 500
    python benchmarks/damage.py --command compare --command ls

In each trial one file or folder of a small run is replaced: by nothing, by something of another kind, by a link, a
pipe, something huge or something cut. One command then looks at it. It must end in time, without a traceback, with a
documented exit code and, where it refuses, with a sentence. Nothing outside the run may be changed. What `verify` takes
for sound in spite of the damage is listed by place. Root reads what nobody may read; to try that, too:

    setpriv --bounding-set=-dac_override,-dac_read_search python benchmarks/damage.py
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import small_run

from robustdeploy.cli import group
from robustdeploy.cli import main as command_line

PATIENCE_S = 90.0
"""For one command on a busy machine; none takes a third of it."""
MOST_BYTES = 2 * 2**30
"""That a command may take beside what is loaded, so that what reads something huge whole is noticed."""
HUGE = 3 * 2**30
FORK = multiprocessing.get_context("fork")
"""Libraries take longer to load than most commands to end."""
TARGET = ("--target", "quick.yaml")
COMMANDS: dict[str, Sequence[str]] = {
    "report": ("report", "runs/tiny"),
    "report of a target": ("report", "runs/tiny", "--target", "quick"),
    "gate": ("gate", "runs/tiny"),
    "gate of a file": ("gate", "runs/tiny/report.json"),
    "verify": ("verify", "runs/tiny"),
    "compare": ("compare", "tiny", "sound"),
    "compare, the other way": ("compare", "runs/sound", "runs/tiny"),
    "ls": ("ls", "runs"),
    "evaluate": ("evaluate", "runs/tiny", *TARGET),
    "evaluate --force": ("evaluate", "runs/tiny", *TARGET, "--force"),
    "export": ("export", "runs/tiny", *TARGET),
    "export --force": ("export", "runs/tiny", *TARGET, "--force"),
    "plan": ("plan", "tiny.yaml", *TARGET, "--name", "tiny"),
    "run": ("run", "tiny.yaml", *TARGET, "--name", "tiny"),
    "bisect": ("bisect", "runs/tiny", *TARGET),
}
CODES = {0, 1, 2, 3, 4}
SPEAKS = {2, 4}
"""Codes of an error, which says what is wrong and what to do."""


@dataclass(frozen=True)
class Trial:
    """What one command said of a run with one damage."""

    place: str
    damage: str
    command: str
    code: int | None
    seconds: float
    said: str
    faults: tuple[str, ...]


def _gone(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _in_its_place(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        _gone(path)
        make(path)

    return replace


def _folder_of_something(path: Path) -> None:
    path.mkdir()
    (path / "something").write_text("x")


def _elsewhere(path: Path) -> Path:
    """Return where links out of the run lead to."""
    return next(parent for parent in path.parents if parent.name == "runs").parent / "elsewhere"


def _moved_out(path: Path) -> None:
    """Leave a link to the file or folder itself, which lies out of the run now."""
    there = _elsewhere(path) / path.name
    path.rename(there)
    path.symlink_to(there)


def _socket(path: Path) -> None:
    # The path may be too long for a socket's name, which is bound from its own folder therefore.
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(path.parent)
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


def _hard_link(path: Path) -> None:
    other = _elsewhere(path) / "hard"
    other.write_bytes(path.read_bytes())
    path.unlink()
    path.hardlink_to(other)


def _grown(path: Path) -> None:
    os.truncate(path, HUGE)


def _changed(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: (path.write_bytes(change(path.read_bytes())), None)[1]


def _unreadable(path: Path) -> None:
    path.chmod(0)


ANYWHERE: dict[str, Callable[[Path], None]] = {
    "missing": _gone,
    "an empty folder": _in_its_place(Path.mkdir),
    "a folder of something": _in_its_place(_folder_of_something),
    "an empty file": _in_its_place(Path.touch),
    "a pipe": _in_its_place(os.mkfifo),
    "a socket": _in_its_place(_socket),
    "a link to nothing": _in_its_place(lambda path: path.symlink_to("nothing")),
    "a link to itself": _in_its_place(lambda path: path.symlink_to(path.name)),
    "a link to its folder": _in_its_place(lambda path: path.symlink_to(".")),
    "a link to an endless device": _in_its_place(lambda path: path.symlink_to("/dev/zero")),
    "a link out of the run": _moved_out,
    "unreadable": _unreadable,
}
FILES: dict[str, Callable[[Path], None]] = {
    "huge": _grown,
    "all zeros": _changed(lambda content: bytes(len(content))),
    "half": _changed(lambda content: content[: len(content) // 2]),
    "without its last byte": _changed(lambda content: content[:-1]),
    "with a byte more": _changed(lambda content: content + b"\n"),
    "other bytes": _changed(lambda content: b"\x80\x04]\x94." * 50),
    "an empty object": _changed(lambda content: b"{}"),
    "a list in a list": _changed(lambda content: b"[" * 100_000),
    "a hard link": _hard_link,
}


def damages(path: Path) -> dict[str, Callable[[Path], None]]:
    """Return what can be done to a path; the run itself cannot be had twice."""
    return ANYWHERE if path.is_dir() else {**ANYWHERE, **FILES}


def places(run: Path) -> list[Path]:
    """Return everything in a run, and the run itself."""
    return [run, *sorted(run.rglob("*"))]


def made(root: Path) -> Path:
    """Return a folder with two equal small runs, one to be damaged."""
    folder = small_run.written(root)
    (folder / "elsewhere").mkdir()
    subprocess.run([sys.executable, "-m", "robustdeploy", "run", *small_run.WORDS], cwd=folder, check=False)
    shutil.copytree(folder / "runs" / "tiny", folder / "runs" / "sound", symlinks=True)
    return folder


def _called(words: Sequence[str], folder: Path) -> None:
    """Be the command line, in a process of its own."""
    os.chdir(folder)
    os.setsid()
    loaded = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (loaded + MOST_BYTES, loaded + MOST_BYTES))
    for number, name in ((1, "out"), (2, "err")):
        handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
    sys.stdout, sys.stderr = open(1, "w", encoding="utf-8"), open(2, "w", encoding="utf-8")  # noqa: SIM115
    sys.argv = ["robustdeploy", *words]
    command_line()


def tried(folder: Path, place: str, damage: str, name: str, root: Path) -> Trial:
    """Damage a copy of the run, call the command, and judge how it ended."""
    copy = root / "trial"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy, symlinks=True)
    path = copy / "runs" / "tiny" / place
    (damages(path))[damage](path)
    before = _contents(copy / "elsewhere")
    process, began = FORK.Process(target=_called, args=(COMMANDS[name], copy)), time.monotonic()
    process.start()
    process.join(PATIENCE_S)
    hung = process.is_alive()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
    err = (copy / "err").read_text(encoding="utf-8", errors="replace") if (copy / "err").exists() else ""
    code = None if hung else process.exitcode
    faults = tuple(_faults(code, err, _contents(copy / "elsewhere") != before))
    with contextlib.suppress(OSError):
        path.chmod(0o755)  # so that it can be removed
    return Trial(place, damage, name, code, round(time.monotonic() - began, 1), err[-1500:], faults)


def _faults(code: int | None, err: str, changed: bool) -> list[str]:
    said = err.strip().splitlines()
    found = {
        "hung": code is None,
        "a traceback": "Traceback" in err,
        f"exit code {code}": code not in CODES,
        "no sentence": code in SPEAKS and not any(line.startswith("error: ") for line in said),
        "something outside of the run was changed": changed,
    }
    return [fault for fault, there in found.items() if there]


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path): _content(path) for path in folder.rglob("*") if path.is_file()}


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def campaign(trials: int, minutes: float, seed: int, root: Path, names: Sequence[str]) -> list[Trial]:
    """Make the runs and try what chance names, each place, damage and command at most once."""
    folder = made(root / "made")
    _load()
    run = folder / "runs" / "tiny"
    able = [name for name in ANYWHERE if name != "unreadable"] if _reads_everything(root) else list(ANYWHERE)
    every = [
        (str(place.relative_to(run)), damage, name)
        for place in places(run)
        for damage in damages(place)
        for name in names
        if damage in able or damage in FILES
    ]
    random.Random(seed).shuffle(every)
    done, end = [], time.monotonic() + 60 * minutes
    for place, damage, name in every[:trials]:
        if time.monotonic() > end:
            break
        done.append(tried(folder, place, damage, name, root))
        if done[-1].faults:
            print(json.dumps(asdict(done[-1])), file=sys.stderr, flush=True)
    return done


def _load() -> None:
    """Have everything loaded that the commands need, so that their processes need not."""
    for name in ("api", *(f"cli.{command}" for command in group.COMMANDS), "evaluate.comparison", "stages.report"):
        importlib.import_module(f"robustdeploy.{name}")


def _reads_everything(root: Path) -> bool:
    path = root / "unreadable"
    path.touch(mode=0)
    return os.access(path, os.R_OK)


def counted(done: Sequence[Trial]) -> dict[str, object]:
    """Return the counts: by command how it ended, the faults, and what was taken for sound in spite of the damage."""
    codes = {name: Counter(str(t.code) for t in done if t.command == name) for name in COMMANDS}
    sound = Counter(f"{t.command}: {t.place}" for t in done if t.command == "verify" and t.code == 0)
    return {
        "trials": len(done),
        "faults": Counter(fault for trial in done for fault in trial.faults),
        "codes": {name: dict(sorted(found.items())) for name, found in codes.items() if found},
        "verified all the same": dict(sorted(sound.items())),
        "slowest_s": max((trial.seconds for trial in done), default=0),
    }


def main() -> int:
    """Parse the command line, damage, and print what became of it as JSON; exit with 1 after any fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", action="append", help="of these alone: a name, or the word that it begins with")
    parser.add_argument("--log", type=Path, help="keep every trial, one JSON document a line")
    options = parser.parse_args()
    asked = options.command or list(COMMANDS)
    names = [name for name in COMMANDS if name in asked or name.split()[0].strip(",") in asked]
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as root:
        os.environ["XDG_STATE_HOME"] = root
        done = campaign(options.trials, options.minutes, options.seed, Path(root), names)
    if options.log:
        options.log.write_text("".join(json.dumps(asdict(trial)) + "\n" for trial in done))
    print(json.dumps(counted(done), indent=2))
    return int(any(trial.faults for trial in done))


if __name__ == "__main__":
    sys.exit(main())
