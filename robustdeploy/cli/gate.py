"""``robustdeploy gate``: PASS, FAIL or INCONCLUSIVE, and the exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from robustdeploy.cli.completion import complete_folder, complete_formats, complete_report, complete_yaml
from robustdeploy.cli.heavy import against
from robustdeploy.cli.options import RUNS, EvaluationOption, JsonOption, QuietOption, RunArgument, RunsOption
from robustdeploy.cli.result import show, verdict_document, verdict_lines
from robustdeploy.core.choices import words_in
from robustdeploy.core.files import make_folder
from robustdeploy.core.gate import Rule
from robustdeploy.core.report import Report
from robustdeploy.core.settings import is_own
from robustdeploy.engine.lineage import label_target
from robustdeploy.engine.run import Run
from robustdeploy.errors import UsageError
from robustdeploy.preflight import check_formats
from robustdeploy.report.judge import judged_by
from robustdeploy.report.load import load_rules
from robustdeploy.report.render import render
from robustdeploy.report.sides import Side, side_of
from robustdeploy.report.stored import is_of_run, other_evaluations, read_report
from robustdeploy.tracking.terminal import Terminal

RulesOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--rules", help="YAML file with other rules than the report's own.", autocompletion=complete_yaml),
]
BaselineOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--baseline",
        help="Earlier run or report.json that rules with no_worse_than_baseline are held against.",
        autocompletion=complete_report,
    ),
]
FormatOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--format",
        metavar="NAME[:OPTION=VALUE,…],…",
        help="Also write the report as it is judged here, in these renderings; needs --output.",
        autocompletion=complete_formats,
    ),
]
OutputOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--output", "-o", help="Folder for the renderings, none of a run.", autocompletion=complete_folder),
]


def gate(
    run: RunArgument = None,
    rules: RulesOption = None,
    baseline: BaselineOption = None,
    target: EvaluationOption = None,
    formats: FormatOption = None,
    output: OutputOption = None,
    runs: RunsOption = RUNS,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Judge a report by its rules or by others.

    RUN may be a report.json too. The report of a run is held against the run first; a file alone is judged as it is.
    An evaluation under other settings than the recipe's is judged only where --target names it.

    Exits with 0 for PASS, 1 for FAIL and 3 for INCONCLUSIVE, which never passes.
    """
    asked = _asked_formats(formats, output)
    side = _side(run, target, runs, quiet or as_json)
    chosen = side.report.rules if rules is None else load_rules(rules)
    report = judged_by(side.report, chosen) if baseline is None else _held(side, chosen, baseline, runs)
    verdict = report.verdict
    lines = list(verdict_lines(verdict))
    if output is not None:
        make_folder(output)
        lines += [f"{path} is written" for path in render(report, asked, output)]
    about = {"report": report.name, "targets": list(report.targets), "label": report.label}
    held = None if report.baseline is None else report.baseline.model_dump(mode="json")
    show(lines, {**about, "baseline": held, **verdict_document(verdict)}, as_json)
    raise typer.Exit(verdict.outcome.exit_code)


def _held(side: Side, rules: tuple[Rule, ...], baseline: Path, runs: Path) -> Report:
    held: Report = against.judged_against(side, rules, baseline, runs)
    return held


def _asked_formats(formats: str | None, output: Path | None) -> list[str]:
    if (formats is None) != (output is None):
        raise UsageError("--format and --output belong together: what to write, and the folder to write it into")
    if output is not None and is_of_run(output / "report.json"):
        raise UsageError(f"{output} is a run, whose renderings are of its own rules; give another folder with --output")
    if output is not None and output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file; give a folder with --output")
    words = words_in(formats or "")
    check_formats(words)
    return list(words)


def _side(run: Path | None, target: str | None, runs: Path, quiet: bool) -> Side:
    """Return the report to be judged, and say which it is and what it says nothing of."""
    if run is not None and run.is_file():
        if target is not None:
            raise UsageError(f"--target names an evaluation of a run, and {run} is one report; leave it out")
        side = side_of(run, runs)
        if not is_of_run(run):
            with Terminal(quiet) as callback:
                callback.say(f"note: {run} lies in no run's folder, so it is judged as it is, without its evidence")
        return side
    opened = Run.open(run, runs)
    loaded = read_report(opened, target)
    with Terminal(quiet) as callback:
        callback.say(f"run {opened.root}, {label_target(loaded) or ', '.join(loaded.targets)}")
        for other in other_evaluations(opened, loaded):
            how = f"robustdeploy report {opened.root}{'' if is_own(other) else f' --target {other}'}"
            callback.say(f"note: this says nothing of {other}; `{how}` does")
    return Side(loaded, opened.recipe, opened.root)
