"""Start-up: how long ``robustdeploy --help`` takes beside a Python that does nothing, taking turns.

    python benchmarks/startup.py

What a user waits for before the first word; half a second is the house's limit on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from functools import partial

from alternating import alternated

COMMANDS = {"python": ["-c", "pass"], "help": ["-m", "robustdeploy", "--help"]}


def main() -> int:
    """Time both commands in turns and print medians, extremes and the ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    run = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL)
    jobs = {name: partial(run, [sys.executable, *words]) for name, words in COMMANDS.items()}
    print(json.dumps(alternated("help", "python", jobs, options.rounds), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
