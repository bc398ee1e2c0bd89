"""Let no file grow above a limit while a command works, and look whether what was cut is ever taken for whole.

    python benchmarks/small_files.py --trials 40

`ulimit -f` fails a write in the middle of a file, as a full disk or a quota does, at a place that the limit chooses. In
each trial one command works on a small run as it was before that command, under a limit between nothing and more than
its largest file. It must end as usual, or with status 4 and a sentence, without a traceback or a temporary file.
`verify` must end without a traceback. Given again without a limit, the command must end as usual, and the run must hold
what it holds without a limit.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import signals

LARGEST = 600_000
"""Bytes; a checkpoint of the small run has 500,000."""


@dataclass(frozen=True)
class Trial:
    """What became of one command under one limit."""

    command: str
    most_bytes: int
    code: int | None
    verify: int
    again: int
    said: str
    faults: tuple[str, ...]


def tried(name: str, most_bytes: int, folder: Path, alone: signals.Alone) -> Trial:
    """Give a command under a limit, look round, and give it again without one."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(alone.before, folder, symlinks=True)
    words = signals.COMMANDS[name]
    code = signals.started(words, folder, "", most_bytes=most_bytes).ended(signals.PATIENCE_S)
    said = (folder / "out").read_text(errors="replace")
    strewn = signals.strewn(folder)
    checked, again = signals.verified(folder), signals.done(words, folder)
    last = said.strip().splitlines()[-1:] or [""]
    faults = {
        f"exit code {code}": code not in (4, alone.code),
        "a traceback": any("Traceback" in text for text in (said, checked.err, again.err)),
        "no sentence": code == 4 and not last[0].startswith("error: "),
        f"strewn: {', '.join(path.name for path in strewn)}": bool(strewn),
        f"verify ended with {checked.code}": checked.code not in (0, 2),
        f"given again it ended with {again.code} and not {alone.code}": again.code != alone.code,
        "the run holds something else": signals.contents(folder / "runs") != alone.contents,
    }
    found = tuple(fault for fault, there in faults.items() if there)
    return Trial(name, most_bytes, code, checked.code, again.code, f"{said[-600:]}\n{again.err[-300:]}", found)


def campaign(trials: int, minutes: float, seed: int, root: Path, names: Sequence[str]) -> list[Trial]:
    """Try each command in turn under limits that chance names, small ones more often."""
    chance, usual, found = random.Random(seed), signals.alone(root, names), []
    end = time.monotonic() + 60 * minutes
    for index in range(trials):
        if time.monotonic() > end:
            break
        name, most_bytes = names[index % len(names)], round(LARGEST * chance.random() ** 3)
        found.append(tried(name, most_bytes, root / "trial", usual[name]))
        print(json.dumps(asdict(found[-1])), file=sys.stderr, flush=True)
    return found


def main() -> int:
    """Parse the command line, limit, and print what became of it as JSON; exit with 1 after any fault."""
    return signals.asked_for(__doc__ or "", campaign)


if __name__ == "__main__":
    sys.exit(main())
