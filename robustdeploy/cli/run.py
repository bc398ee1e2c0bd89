"""``robustdeploy run``: the whole chain, from the recipe to the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from robustdeploy.cli.completion import complete_recipe
from robustdeploy.cli.heavy import against, api
from robustdeploy.cli.options import (
    HOST,
    RUNS,
    BuildsOption,
    DataOption,
    ForceOption,
    JsonOption,
    LatencyOption,
    MemoryOption,
    NameOption,
    OpsOption,
    ParamsOption,
    PrecisionsOption,
    QuietOption,
    RecipeOption,
    RunsOption,
    SeedOption,
    SetOption,
    SkipOption,
    StartOption,
    TargetsOption,
    TrackOption,
    TrustOption,
    overrides,
)
from robustdeploy.cli.result import accuracy_lines, gate_command, show, verdict_lines
from robustdeploy.cli.starting import started
from robustdeploy.core.asked import check_targets, recipe_for
from robustdeploy.core.callback import Callback
from robustdeploy.core.given import is_net_file, is_stored_net, kind_of_net
from robustdeploy.core.load import load_target
from robustdeploy.core.plain import plain
from robustdeploy.core.precisions import precisions_on
from robustdeploy.core.recipe import Choice, Recipe
from robustdeploy.core.report import Report
from robustdeploy.data.find import looking_once
from robustdeploy.engine.run import Run
from robustdeploy.errors import UsageError
from robustdeploy.preflight import check_training, recipe_to_import, remarks
from robustdeploy.report.judge import judged_by
from robustdeploy.report.sides import Side
from robustdeploy.tracking.chosen import listening
from robustdeploy.train.launch import follows

RecipeOrNetArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="Recipe by name or YAML file; or a net that is trained: an ONNX file, weights, or a folder with net.json.",
        autocompletion=complete_recipe,
    ),
]


def run(
    recipe: RecipeOrNetArgument = "digits-resnet8",
    target: TargetsOption = None,
    precision: PrecisionsOption = None,
    builds: BuildsOption = 1,
    ops_target: OpsOption = None,
    params_target: ParamsOption = None,
    memory_target: MemoryOption = None,
    latency_target: LatencyOption = None,
    data: DataOption = None,
    skip_unreadable: SkipOption = False,
    start: StartOption = None,
    held_against: RecipeOption = None,
    trust: TrustOption = False,
    seed: SeedOption = None,
    set_: SetOption = None,
    name: NameOption = None,
    runs: RunsOption = RUNS,
    force: ForceOption = False,
    track: TrackOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Go all the way, from a recipe to the verdict.

    Prunes, exports, evaluates, reports and gates; what is done already is skipped. Several targets are told in one
    report, and one that is lost does not stop the others. A net that is trained already is deployed as it is.

    Exits with 0 for PASS, 1 for FAIL and 3 for INCONCLUSIVE, which never passes.
    """
    with listening(track, quiet or as_json) as callback, looking_once():
        goals = [load_target(each) for each in target or [HOST]]
        check_targets(goals)
        for goal in goals:
            precisions_on(goal, [Choice(name=each) for each in precision or ()])
        how: dict[str, Any] = {"precisions": precision or (), "builds": builds}
        how |= {"runs": runs, "name": name, "force": force, "callback": callback}
        plainly = overrides(set_, data=data, skip=skip_unreadable)
        if is_net_file(net := Path(recipe)) or is_stored_net(net):
            budgets = {"ops": ops_target, "params": params_target, "memory": memory_target, "latency": latency_target}
            _refuse_training(net, {"start": start, "seed": seed, **{f"{k}-target": v for k, v in budgets.items()}})
            loaded = recipe_to_import(net, held_against, plainly)
            written = api.run_net(net, held_against, goals, overrides=plainly, trust=trust, **how)
        else:
            if held_against is not None:
                raise UsageError("--recipe is for a net that is trained; of a training the recipe is the first word")
            start = started(start, recipe, plainly, runs, callback)
            others = (params_target, memory_target, start, skip_unreadable, latency_target, target)
            more = overrides(set_, ops_target, seed, data, *others)
            # Of several processes one has the run's folder already.
            check = None if follows() else partial(check_training, runs=runs, name=name, targets=goals, force=force)
            loaded = recipe_for(recipe, targets=goals, overrides=more, before=check)
            if follows():
                api.follow(loaded)
                return
            _tell(loaded, callback)
            written = api.run(loaded, goals, **how)
        report = _judged(written.report, loaded, written.files[0].parent, callback)
    _show(report, written.files, as_json)
    raise typer.Exit(report.verdict.outcome.exit_code)


def _tell(loaded: Recipe, callback: Callback) -> None:
    """Say what is about to be trained."""
    for remark in remarks(loaded):
        callback.say(f"note: {remark}")
    callback.say(f"recipe {loaded.name}: {loaded.net.name} on {loaded.data.name}, to keep: {loaded.budget}")


def _refuse_training(net: Path, options: Mapping[str, object]) -> None:
    """Refuse what a net that is deployed as it is has no use for, and a file that holds no net."""
    kind = kind_of_net(net) if is_net_file(net) else "folder"
    words = [f"--{option}" for option, value in options.items() if value is not None]
    if not words:
        return
    if kind == "onnx":
        fix = "an ONNX file has no layers of torch to prune: begin with the weights that it was made of"
    else:
        fix = f"to prune it: robustdeploy run RECIPE --start {net} {words[0]} …"
    raise UsageError(f"{', '.join(words)}: {net} is trained, and run deploys it as it is; {fix}")


def _judged(report: Report, asked: Recipe, root: Path, callback: Callback) -> Report:
    """Return the report as the rules that were asked for judge it, against the baseline that was asked for."""
    own = Run.open(root, root.parent).recipe
    if plain(asked.gate) == plain(report.rules) and asked.gate_baseline == own.gate_baseline:
        return report
    # The run keeps its own gate; what was asked for here decides here.
    callback.say(f"note: judged by the rules given now; by the run's own it is {report.verdict.headline}")
    if asked.gate_baseline is None or not any(rule.no_worse_than_baseline for rule in asked.gate):
        return judged_by(report, asked.gate)
    judged: Report = against.judged_against(Side(report, own, root), asked.gate, asked.gate_baseline, root.parent)
    return judged


def _show(report: Report, files: Sequence[Path], as_json: bool) -> None:
    page = next((path for path in files if path.suffix == ".html"), files[0])
    lines = [*accuracy_lines(report), *verdict_lines(report.verdict)]
    lines += [f"{page} is written; open it, or judge again: {gate_command(files[0])}"]
    show(lines, report.model_dump(mode="json"), as_json)
