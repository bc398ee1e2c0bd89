"""``robustdeploy report``: report.json and its renderings."""

from __future__ import annotations

from typing import Annotated

import typer

from robustdeploy.cli.completion import complete_formats
from robustdeploy.cli.heavy import reporting
from robustdeploy.cli.options import (
    RUNS,
    EvaluationsOption,
    JsonOption,
    QuietOption,
    RunArgument,
    RunsOption,
    TrackOption,
)
from robustdeploy.cli.result import accuracy_lines, gate_command, show, verdict_lines
from robustdeploy.core.choices import words_in
from robustdeploy.core.settings import evaluations_of
from robustdeploy.engine.run import Run
from robustdeploy.preflight import check_formats, check_reportable
from robustdeploy.tracking.chosen import listening

FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="NAME[:OPTION=VALUE,…],…",
        help="Renderings, separated by commas, each with options where it has any.",
        autocompletion=complete_formats,
    ),
]


def report(
    run: RunArgument = None,
    target: EvaluationsOption = None,
    formats: FormatOption = "html,md,junit",
    runs: RunsOption = RUNS,
    track: TrackOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write, judge and render report.json.

    It is assembled from the sealed stages, of every target that was evaluated. One of less, by --target, stands beside
    it under its own name.
    """
    with listening(track, quiet or as_json) as callback:
        opened = Run.open(run, runs)
        callback.say(f"run {opened.root}")
        chosen = words_in(formats)
        check_formats(chosen)
        check_reportable(opened, target or ())
        written = reporting.report(opened, target or (), formats=chosen, callback=callback)
    lines = [*accuracy_lines(written.report), *verdict_lines(written.report.verdict)]
    lines += [f"{path} is written" for path in written.files]
    if named := evaluations_of(written.files[0].name):
        lines.append(f"{opened.root / 'report.json'} stays as it is; this one is of {', '.join(named)} alone")
    lines[-1] += f"; next: {gate_command(written.files[0])}"
    show(lines, written.report.model_dump(mode="json"), as_json)
