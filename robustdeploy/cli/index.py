"""``robustdeploy index``: one page of all runs in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustdeploy.cli.completion import complete_folder
from robustdeploy.cli.options import RUNS, JsonOption
from robustdeploy.cli.result import show
from robustdeploy.report.index import write_index

FolderArgument = Annotated[
    Path, typer.Argument(metavar="RUNS", help="Folder that holds the runs.", autocompletion=complete_folder)
]


def index(runs: FolderArgument = RUNS, as_json: JsonOption = False) -> None:
    """Write one page of all runs, with trends.

    Each has its verdict, its key figures and a link to its report.

    It is RUNS/index.html, needs no script and no network, and is written anew by each call.
    """
    path, count = write_index(runs)
    lines = [f"{path} is written, of {count} run{'' if count == 1 else 's'}; look at it: robustdeploy serve {runs}"]
    show(lines, {"path": str(path), "runs": count}, as_json)
