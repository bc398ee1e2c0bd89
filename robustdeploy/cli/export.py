"""``robustdeploy export``: ONNX with metadata, parity with torch, and the bundle for one target."""

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
from robustdeploy.engine.lineage import source
from robustdeploy.engine.manifest import read_manifest
from robustdeploy.engine.places import ONNX
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
    """Write ONNX and the bundle for a target.

    Parity with torch is measured and written down. The engine is built by evaluate, on the board or, where
    the target says so, on this machine.
    """
    with Terminal(quiet or as_json) as callback:
        opened = Run.open(run, runs)
        goal = load_target(target)
        callback.say(f"run {opened.root}, target {goal.name}")
        check_finished(opened.root, opened.net_place)
        asked: dict[str, Any] = {"precisions": precision or (), "data": data}
        bundle = api.export(opened, goal, **asked, force=force, trust=trust, callback=callback)
    # Beside the bundle, what was found of the file that is in it: parity, counts and zeros.
    packed = read_manifest(bundle.path.parent)
    manifest = read_manifest(opened.root / source(packed, ONNX))
    line = f"{bundle.path} is written; next: robustdeploy evaluate {opened.root} --target {target}{_asked(precision)}"
    show([line], {"run": str(opened.root), "bundle": str(bundle.path), **manifest.model_dump(mode="json")}, as_json)


def _asked(precisions: list[str] | None) -> str:
    return "".join(f" --precision {each}" for each in precisions or ())
