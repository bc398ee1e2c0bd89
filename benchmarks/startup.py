"""Start-up: how long ``robustdeploy --help`` takes beside a Python that does nothing, taking turns.

    python benchmarks/startup.py

What a user waits for before the first word; half a second is the house's limit on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from statistics import median

import machine

COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "help": [sys.executable, "-m", "robustdeploy", "--help"],
}


def main() -> int:
    """Time both commands in turns and print medians, extremes and the ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    before = machine.load_average()
    for words in COMMANDS.values():
        _seconds(words)  # a first run reads from the disk and writes byte code
    times = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, words in COMMANDS.items():
            times[name].append(_seconds(words))
    report = {
        "seconds": {name: {"median": median(of), "lowest": min(of), "highest": max(of)} for name, of in times.items()},
        "ratio": median(help_ / bare for help_, bare in zip(times["help"], times["python"], strict=True)),
        "rounds": rounds,
        "load_before": before,
        "load_after": machine.load_average(),
    }
    print(json.dumps(report, indent=2))
    return 0


def _seconds(words: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
