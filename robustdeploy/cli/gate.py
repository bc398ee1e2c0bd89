"""``robustdeploy gate``: PASS, FAIL or INCONCLUSIVE, and the exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from robustdeploy.cli.completion import complete_yaml
from robustdeploy.cli.options import RUNS, EvaluationOption, JsonOption, QuietOption, RunArgument, RunsOption
from robustdeploy.cli.result import show, verdict_document, verdict_lines
from robustdeploy.core.settings import is_own
from robustdeploy.engine.lineage import label_target
from robustdeploy.engine.run import Run
from robustdeploy.errors import UsageError
from robustdeploy.report.judge import judge_report
from robustdeploy.report.load import load_rules
from robustdeploy.report.stored import believed, is_of_run, other_evaluations, read_report
from robustdeploy.tracking.terminal import Terminal

RulesOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--rules", help="YAML file with other rules than the report's own.", autocompletion=complete_yaml),
]


def gate(
    run: RunArgument = None,
    rules: RulesOption = None,
    target: EvaluationOption = None,
    runs: RunsOption = RUNS,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Judge a report by its rules or by others.

    RUN may be a report.json too. The report of a run is held against the run first; a file alone is judged as it is.
    An evaluation under other settings than the recipe's is judged only where --target names it.

    Exits with 0 for PASS, 1 for FAIL and 3 for INCONCLUSIVE, which never passes.
    """
    if run is not None and run.is_file():
        if target is not None:
            raise UsageError(f"--target names an evaluation of a run, and {run} is one report; leave it out")
        loaded = believed(run)
        if not is_of_run(run):
            with Terminal(quiet or as_json) as callback:
                callback.say(f"note: {run} lies in no run's folder, so it is judged as it is, without its evidence")
    else:
        opened = Run.open(run, runs)
        loaded = read_report(opened, target)
        with Terminal(quiet or as_json) as callback:
            callback.say(f"run {opened.root}, {label_target(loaded) or ', '.join(loaded.targets)}")
            for other in other_evaluations(opened, loaded):
                how = f"robustdeploy report {opened.root}{'' if is_own(other) else f' --target {other}'}"
                callback.say(f"note: this says nothing of {other}; `{how}` does")
    verdict = judge_report(loaded, None if rules is None else load_rules(rules))
    about = {"report": loaded.name, "targets": list(loaded.targets), "label": loaded.label}
    show(verdict_lines(verdict), {**about, **verdict_document(verdict)}, as_json)
    raise typer.Exit(verdict.outcome.exit_code)
