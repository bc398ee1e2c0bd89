"""``robustdeploy import``: make a run of a net that others trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from robustdeploy.cli.completion import complete_files, complete_recipe
from robustdeploy.cli.heavy import api
from robustdeploy.cli.options import (
    HOST,
    RUNS,
    DataOption,
    ForceOption,
    JsonOption,
    NameOption,
    QuietOption,
    RunsOption,
    SetOption,
    SkipOption,
    TargetOption,
    TrackOption,
    TrustOption,
    overrides,
)
from robustdeploy.cli.result import show
from robustdeploy.core.given import kind_of_net
from robustdeploy.core.load import load_target
from robustdeploy.core.records import NetRecord
from robustdeploy.data.find import looking_once
from robustdeploy.engine.manifest import read_manifest
from robustdeploy.engine.run import Run
from robustdeploy.engine.runner import record_from
from robustdeploy.imports.asked import Asked, labels_from, numbers_from, range_from
from robustdeploy.preflight import recipe_to_import
from robustdeploy.tracking.chosen import listening

FileArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="ONNX file, or weights of PyTorch (.pt, .pth, .safetensors).",
        autocompletion=complete_files,
    ),
]
RecipeOption = Annotated[
    Optional[str],  # noqa: UP045 - Typer reads it at run time
    typer.Option(
        "--recipe", metavar="RECIPE", help="Data, attacks and rules to hold it against.", autocompletion=complete_recipe
    ),
]
LayoutOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--layout", help="Order in which it reads an image: nchw, nhwc, nhw, flat or flat-hwc."),
]
ValuesOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--range", metavar="LOW..HIGH", help="What black and white are for it: 0..1, 0..255, -1..1."),
]
MeanOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--mean", metavar="A,B,C", help="Its images are normalised by: mean per channel, pixels in [0, 1]."),
]
StdOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--std", metavar="A,B,C", help="Its images are normalised by: deviation per channel."),
]
LabelsOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--labels", metavar="FILE", help="Class of the data for each of its outputs, one a line; - for none."),
]
OutputOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--output", help="Of an ONNX file: the output that holds the scores."),
]
NetOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--net", help="Of weights: the net, by name or package.module:factory."),
]
KeyOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--key", help="Of weights: where in the file they lie, such as model or ema.state_dict."),
]


def import_(
    file: FileArgument,
    recipe: RecipeOption = None,
    net: NetOption = None,
    key: KeyOption = None,
    layout: LayoutOption = None,
    range_: ValuesOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    labels: LabelsOption = None,
    output: OutputOption = None,
    target: TargetOption = HOST,
    data: DataOption = None,
    skip_unreadable: SkipOption = False,
    set_: SetOption = None,
    name: NameOption = None,
    runs: RunsOption = RUNS,
    force: ForceOption = False,
    trust: TrustOption = False,
    track: TrackOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a run of a net that others trained.

    FILE is an ONNX file, or weights of PyTorch. What it does not tell (the order and the range of pixels, the classes)
    is guessed where that is safe, and said. The net is then evaluated, reported and judged like any other.
    """
    more = overrides(set_, data=data, skip=skip_unreadable)
    more += [] if net is None else [f"net={net}"]
    with listening(track, quiet or as_json) as callback, looking_once():
        goal = load_target(target)
        kind_of_net(file)
        asked = Asked(
            layout=layout,
            values=None if range_ is None else range_from(range_),
            mean=None if mean is None else numbers_from("--mean", mean),
            std=None if std is None else numbers_from("--std", std),
            labels=None if labels is None else labels_from(labels),
            output=output,
            key=key,
        )
        recipe_to_import(file, recipe, more)
        how: dict[str, Any] = {"overrides": more, "runs": runs, "name": name, "force": force, "trust": trust}
        run = api.import_net(file, recipe, asked=asked, **how, callback=callback)
        api.export(run, goal, force=force, trust=trust or [run.recipe.net], callback=callback)
    _show(run, goal.name, target, as_json)


def _show(run: Run, name: str, target: str, as_json: bool) -> None:
    folder = run.root / run.net_place
    manifest = read_manifest(folder)
    record = record_from(manifest, NetRecord, str(folder))
    costs = f"{record.macs:,} MACs" if not record.uncounted else "operations not counted"
    lines = [
        *map(str, record.data.get("import", ())),
        f"{costs}, {record.params:,} parameters",
        f"{run.root} is written; next: robustdeploy evaluate {run.root} --target {target}",
    ]
    show(lines, {"run": str(run.root), "stage": "import", **manifest.model_dump(mode="json")}, as_json)
