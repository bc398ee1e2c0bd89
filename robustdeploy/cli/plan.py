"""``robustdeploy plan``: what a run would do, skip or do again, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import typer

from robustdeploy.cli.heavy import api, sizes
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
    RecipeArgument,
    RunsOption,
    SeedOption,
    SetOption,
    SkipOption,
    StartOption,
    TargetsOption,
    overrides,
)
from robustdeploy.cli.result import show, table
from robustdeploy.core.asked import check_targets, recipe_for
from robustdeploy.core.corruptions import corruption_passes
from robustdeploy.core.load import load_target
from robustdeploy.core.patches import patch_passes
from robustdeploy.core.recipe import Evaluate
from robustdeploy.data.find import looking_once
from robustdeploy.engine.plan import Step
from robustdeploy.preflight import check_asked
from robustdeploy.tracking.chosen import listening

IntervalOption = Annotated[
    float | None,
    typer.Option("--interval", min=0.0005, max=0.499, help="Say how many test images give an accuracy ± this share."),
]
DropOption = Annotated[
    float | None,
    typer.Option("--drop", min=0.0005, max=0.499, help="Say how many test images show that a build lost this share."),
]


def plan(
    recipe: RecipeArgument = "digits-resnet8",
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
    seed: SeedOption = None,
    set_: SetOption = None,
    name: NameOption = None,
    runs: RunsOption = RUNS,
    force: ForceOption = False,
    interval: IntervalOption = None,
    drop: DropOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show what a run would do, and why.

    Each stage is named once, with what it rests on. Nothing is written, and no board is asked. How many test images a
    statement takes is told with --interval and --drop.
    """
    with listening((), quiet or as_json) as callback, looking_once():
        goals = [load_target(each) for each in target or [HOST]]
        check_targets(goals)
        more = overrides(
            set_, ops_target, seed, data, params_target, memory_target, start, skip_unreadable, latency_target, target
        )
        check = partial(check_asked, runs=runs, name=name, targets=goals, force=force)
        loaded = recipe_for(recipe, targets=goals, overrides=more, before=check)
        run, steps = api.plan(
            loaded,
            goals,
            precisions=precision or (),
            builds=builds,
            runs=runs,
            name=name,
            force=force,
            callback=callback,
        )
    needed, lines = {}, []
    if interval is not None:
        needed["interval"] = sizes.images_for_interval(interval)
        lines.append(f"an accuracy within ±{interval:.2%}, at 95 %, takes {needed['interval']:,} test images at most")
    if drop is not None:
        needed["drop"] = sizes.images_for_drop(drop)
        told = f"a build that loses {drop:.2%} of the images and gains none shows on {needed['drop']:,} test images"
        lines.append(f"{told}, with a chance of {sizes.POWER:.0%}")
    takes, passes = _passes(loaded.evaluate)
    document: dict[str, Any] = {"run": str(run.root), "steps": [asdict(step) for step in steps], "images": needed}
    show([*_lines(str(run.root), steps), *lines, *takes], document | passes, as_json)


def _lines(root: str, steps: Sequence[Step]) -> list[str]:
    rows = [["stage", "folder", "what", "why"]]
    rows += [[step.stage, step.place, step.action, step.why] for step in steps]
    rows.append(["report", "report.json", "do", "it is written of what is there then"])
    return [f"run {root}", *table(rows)]


def _passes(evaluate: Evaluate) -> tuple[list[str], dict[str, int]]:
    """Say how often test images are scored beyond the attacks in the ball, in words and as numbers."""
    corrupted, (patched, learning) = corruption_passes(evaluate.corruptions), patch_passes(evaluate.patches)
    lines = []
    if corrupted:
        lines.append(f"under corruptions each test image is scored {corrupted} times more, by each net in each place")
    if patched or learning:
        taught = f", and {learning:,} passes teach what is learnt once" if learning else ""
        lines.append(f"for patches each test image goes {patched:,} times through each net in torch at most{taught}")
    return lines, {"corruption_passes": corrupted, "patch_passes": patched, "patch_learning_passes": learning}
