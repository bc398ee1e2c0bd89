"""Let the disk become full while a command works, and look whether what was cut is ever taken for whole.

    python benchmarks/full_disk.py --trials 40

A small file system in memory is mounted, which takes root. In each trial one command works in it on a small run as it
was before that command, with so much room left as chance names: between nothing and more than the command writes. Its
temporary folder lies there too. It must end as usual, or with status 4 and a sentence, without a traceback or a
temporary file. `verify` must end without a traceback. Once there is room, the same command must end as usual, and the
run must hold what it holds without a limit.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import signals

AMPLE = 1 << 30
"""Bytes of the file system where nothing is to be short."""
MOST = 6_000_000
"""That may be left; the small run takes 3,000,000, a comparison twice as much."""


@dataclass(frozen=True)
class Trial:
    """What became of one command on one disk."""

    command: str
    room_bytes: int
    code: int | None
    verify: int
    again: int
    said: str
    faults: tuple[str, ...]


@contextlib.contextmanager
def mounted(place: Path) -> Iterator[Path]:
    """Give an empty file system in memory."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={AMPLE}", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def sized(place: Path, size: int) -> None:
    """Let the file system hold ``size`` bytes in all."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)


def tried(name: str, room: int, disk: Path, alone: signals.Alone) -> Trial:
    """Give a command on a disk with so much room, look round, make room and give it again."""
    folder = disk / "trial"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(alone.before, folder, symlinks=True)
    words = signals.COMMANDS[name]
    # What the command says goes to another disk, as a terminal's does.
    said_in = disk.parent / "said"
    (folder / "err").unlink(missing_ok=True)
    said_in.touch()
    (folder / "err").symlink_to(said_in)
    sized(disk, shutil.disk_usage(disk).used + room)
    try:
        code = signals.started(words, folder, "").ended(signals.PATIENCE_S)
        said = said_in.read_text(errors="replace")
        checked = signals.verified(folder)
    finally:
        sized(disk, AMPLE)
    strewn = signals.strewn(folder)
    again = signals.done(words, folder)
    last = said.strip().splitlines()[-1:] or [""]
    faults = {
        f"exit code {code}": code not in (4, alone.code),
        "a traceback": any("Traceback" in text for text in (said, checked.err, again.err)),
        # A comparison goes on with its other rows, and says of each that failed why.
        "no sentence": code == 4 and not (last[0].startswith("error: ") or " failed: " in last[0]),
        "no word of room": code == 4 and not any(word in said for word in ("make room", "no space", "disk")),
        f"strewn: {', '.join(path.name for path in strewn)}": bool(strewn),
        f"verify ended with {checked.code}": checked.code not in (0, 2),
        f"given again it ended with {again.code} and not {alone.code}": again.code != alone.code,
        "the run holds something else": signals.contents(folder / "runs") != alone.contents,
        "not sound afterwards": signals.verified(folder).code not in (0, alone.verify),
    }
    found = tuple(fault for fault, there in faults.items() if there)
    return Trial(name, room, code, checked.code, again.code, f"{said[-700:]}\n{again.err[-300:]}", found)


def campaign(trials: int, minutes: float, seed: int, root: Path, names: Sequence[str]) -> list[Trial]:
    """Try each command in turn with as much room as chance names, little more often."""
    chance, usual, found = random.Random(seed), signals.alone(root, names), []
    end = time.monotonic() + 60 * minutes
    with mounted(root / "disk") as disk:
        for index in range(trials):
            if time.monotonic() > end:
                break
            name, room = names[index % len(names)], round(MOST * chance.random() ** 3)
            found.append(tried(name, room, disk, usual[name]))
            print(json.dumps(asdict(found[-1])), file=sys.stderr, flush=True)
    return found


def main() -> int:
    """Parse the command line, fill the disk, and print what became of it as JSON; exit with 1 after any fault."""
    if os.geteuid() != 0:
        print("a file system is mounted for this, which takes root", file=sys.stderr)
        return 2
    return signals.asked_for(__doc__ or "", campaign)


if __name__ == "__main__":
    sys.exit(main())
