"""Results: train, measure and write the rows of docs/results.md.

    python benchmarks/results.py list
    python benchmarks/results.py train cifar10-resnet20-ops0.3 --data data/cifar10
    python benchmarks/results.py measure cifar10-resnet20-ops0.3 --data data/cifar10
    python benchmarks/results.py time
    python benchmarks/results.py table

``train`` and ``measure`` take hours without a GPU; after an interruption, even ``kill -9``, the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from making import Places, make
from measure import measure
from rowfile import read_row
from rows import METHODS, ROWS, row_named
from table import write_table
from timing import time_rows

from robustdeploy.errors import RobustdeployError
from robustdeploy.tracking.terminal import Terminal

ROOT = Path(__file__).resolve().parent.parent


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line asks and return the exit code."""
    options = _parser().parse_args(words)
    try:
        options.do(options)
    except RobustdeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results", help="folder of all rows")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listed = commands.add_parser("list", help="say which rows there are and what is done")
    listed.set_defaults(do=_list)
    train = commands.add_parser("train", help="train the net of a row")
    train.add_argument("--epochs", type=int, default=30)
    train.set_defaults(do=_train)
    measured = commands.add_parser("measure", help="attack the net of a row on all test images")
    measured.set_defaults(do=_measure)
    measured.add_argument("--quick", action="store_true", help="without PGD-50-10, which takes most of the time")
    for command in (train, measured):
        command.add_argument("row", help="name of the row, see list")
        command.add_argument("--data", type=Path, help="folder of the data set")
        command.add_argument("--device", default="auto")
        command.add_argument("--work", type=Path, default=Path("runs") / "results", help="for what is half done")
    timed = commands.add_parser("time", help="time the nets of all rows on this machine's toolchains, in turns")
    timed.add_argument("--rounds", type=int, default=60)
    timed.set_defaults(do=_time)
    table = commands.add_parser("table", help="write all measured rows into the page")
    table.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md")
    table.set_defaults(do=_table)
    return parser


def _list(options: argparse.Namespace) -> None:
    for row in ROWS:
        record = read_row(options.results / row.name)
        done = "not trained" if record is None else "measured" if "measured" in record else "trained, not measured"
        print(f"{row.name:<40} {METHODS[row.method]:<38} seed {row.seed}   {done}")


def _train(options: argparse.Namespace) -> None:
    row = row_named(options.row)
    recipe = row.recipe_from(options.data, options.epochs, options.device)
    with Terminal() as callback:
        folder = make(row, recipe, Places(options.results, options.work), callback)
    print(f"{folder} is written; next: python benchmarks/results.py measure {row.name}")


def _measure(options: argparse.Namespace) -> None:
    row = row_named(options.row)
    with Terminal() as callback:
        places = Places(options.results, options.work)
        path = measure(row, options.data, options.device, places, callback, options.quick)
    print(f"{path} is written; next: python benchmarks/results.py table")


def _time(options: argparse.Namespace) -> None:
    count = time_rows(options.results, options.rounds, partial(print, file=sys.stderr))
    print(f"{count} rows are timed; next: python benchmarks/results.py table")


def _table(options: argparse.Namespace) -> None:
    count = write_table(options.results, options.page)
    print(f"{options.page} shows {count} of {len(ROWS)} rows")


if __name__ == "__main__":
    sys.exit(main())
