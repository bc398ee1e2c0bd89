"""``robustdeploy gate``: PASS, FAIL or INCONCLUSIVE, and the exit code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from robustdeploy.cli.options import RUNS, JsonOption, QuietOption, RunArgument, RunsOption

RulesOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--rules", help="YAML file with other rules than the report's own."),
]


def gate(
    run: RunArgument = None,
    rules: RulesOption = None,
    runs: RunsOption = RUNS,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Judge a report by its rules or by others; reads report.json and nothing else. RUN may be a report.json too.

    Exits with 0 for PASS, 1 for FAIL and 3 for INCONCLUSIVE, which never passes.
    """
    from robustdeploy.cli.result import show, verdict_document, verdict_text
    from robustdeploy.cli.talk import TerminalTalk
    from robustdeploy.core.run import Run
    from robustdeploy.pipeline import newer_than_report, read_report
    from robustdeploy.report.judge import judge_report
    from robustdeploy.report.load import load_report, load_rules

    if run is not None and run.is_file():
        loaded = load_report(run)
    else:
        opened = Run.open(run, runs)
        loaded = read_report(opened)
        with TerminalTalk(quiet or as_json) as talk:
            talk.say(f"run {opened.root}, target {loaded.target}")
        if newer := newer_than_report(opened):
            print(f"note: {newer} was made after this report; `robustdeploy report` takes it in", file=sys.stderr)
    verdict = judge_report(loaded, None if rules is None else load_rules(rules))
    show(verdict_text(verdict), {"report": loaded.name, "target": loaded.target, **verdict_document(verdict)}, as_json)
    raise typer.Exit(verdict.outcome.exit_code)
