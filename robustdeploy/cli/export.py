"""``robustdeploy export``: the ONNX files that one target takes, with metadata and their parity with torch."""

from __future__ import annotations

from typing import Any

from robustdeploy.cli.heavy import api
from robustdeploy.cli.options import (
    RUNS,
    DataOption,
    ForceOption,
    JsonOption,
    PrecisionsOption,
    QuietOption,
    RunArgument,
    RunsOption,
    TargetOption,
    TrustOption,
)
from robustdeploy.cli.result import show
from robustdeploy.core.load import load_target
from robustdeploy.engine.manifest import read_manifest
from robustdeploy.engine.run import Run
from robustdeploy.engine.runner import check_finished
from robustdeploy.tracking.terminal import Terminal


def export(
    run: RunArgument = None,
    target: TargetOption = "host-cpu",
    precision: PrecisionsOption = None,
    data: DataOption = None,
    runs: RunsOption = RUNS,
    force: ForceOption = False,
    trust: TrustOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write the ONNX files that a target takes.

    Parity with torch is measured and written down. The engine is built by evaluate, on the board or, where
    the target says so, on this machine.
    """
    with Terminal(quiet or as_json) as callback:
        opened = Run.open(run, runs)
        goal = load_target(target)
        callback.say(f"run {opened.root}, target {goal.name}")
        check_finished(opened.root, opened.net_place)
        asked: dict[str, Any] = {"precisions": precision or (), "data": data}
        made = api.export(opened, goal, **asked, force=force, trust=trust, callback=callback)
    lines = [f"{each.path} is written" for each in made]
    lines.append(f"next: robustdeploy evaluate {opened.root} --target {target}{_asked(precision)}")
    # With each file, what was found of it: parity, counts and zeros. One file, as is usual, stands at the top.
    first, *beside = [{"onnx": str(each.path), **read_manifest(each.path.parent).model_dump()} for each in made]
    show(lines, {"run": str(opened.root), **first, "beside": beside}, as_json)


def _asked(precisions: list[str] | None) -> str:
    return "".join(f" --precision {each}" for each in precisions or ())
