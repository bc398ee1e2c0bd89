"""``robustdeploy collect``: put the adversarial images that runs have stored into a replay set."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

from robustdeploy.cli.completion import complete_folder, complete_run
from robustdeploy.cli.heavy import api
from robustdeploy.cli.options import RUNS, JsonOption, RunsOption
from robustdeploy.cli.result import show
from robustdeploy.core.reading import size_text
from robustdeploy.data.replay_set import check_room
from robustdeploy.engine.run import Run

CollectedArgument = Annotated[
    Optional[list[Path]],  # noqa: UP045 - Typer reads it at run time
    typer.Argument(
        metavar="RUN...", help="Runs by folder or name; the latest when left out.", autocompletion=complete_run
    ),
]
IntoOption = Annotated[
    Path,
    typer.Option("--into", metavar="FOLDER", help="The replay set, made or added to.", autocompletion=complete_folder),
]


def collect(
    into: IntoOption, run: CollectedArgument = None, runs: RunsOption = RUNS, as_json: JsonOption = False
) -> None:
    """Collect adversarial images into a replay set.

    Every image is taken that an attack of these runs made wrong, on a target or in torch, each once. What is there
    already stays, so the command may be repeated. `evaluate --replay FOLDER` tries them again.
    """
    check_room(into)
    opened = [Run.open(path, runs) for path in run] if run else [Run.open(None, runs)]
    found = api.collect(opened, into)
    line = (
        f"{into}: {found.images:,} images of {found.clean_images:,} test images, {found.added:,} of them new; "
        f"{size_text(found.bytes)}"
    )
    show([line, f"next: robustdeploy evaluate RUN --replay {into}"], {**asdict(found), "folder": str(into)}, as_json)
