"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Optional

import typer

from robustdeploy.cli.completion import (
    complete_evaluation,
    complete_folder,
    complete_precision,
    complete_recipe,
    complete_run,
    complete_set,
    complete_start,
    complete_target,
    complete_tracker,
)
from robustdeploy.core.builds import MOST
from robustdeploy.errors import UsageError

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Recipe by name or YAML file.", autocompletion=complete_recipe)
]
RunArgument = Annotated[
    Optional[Path],  # noqa: UP045 - Typer reads it at run time
    typer.Argument(metavar="RUN", help="Run by folder or name; the latest when left out.", autocompletion=complete_run),
]
TargetOption = Annotated[
    str, typer.Option("--target", "-t", help="Target by name or YAML file.", autocompletion=complete_target)
]
TargetsOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--target", "-t", help="Target by name or YAML file; may be repeated.", autocompletion=complete_target
    ),
]
OptionalTarget = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--target", "-t", help="Target by name or YAML file.", autocompletion=complete_target),
]
EvaluationsOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--target",
        "-t",
        help="Evaluation by its target, or TARGET@LABEL under other settings; may be repeated.",
        autocompletion=complete_evaluation,
    ),
]
EvaluationOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--target",
        "-t",
        help="Evaluation by its target, or TARGET@LABEL under other settings.",
        autocompletion=complete_evaluation,
    ),
]
PrecisionsOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--precision",
        help="What the net is computed in there; may be repeated.",
        autocompletion=complete_precision,
    ),
]
BuildsOption = Annotated[
    int,
    typer.Option("--builds", min=1, max=MOST, help="Engines to build for each target; the worst decides."),
]
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs.", autocompletion=complete_folder)]
SetOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--set", metavar="A.B=C", help="Override one field of the recipe; may be repeated.", autocompletion=complete_set
    ),
]
DataOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--data", help="Folder of the data set (data.path).", autocompletion=complete_folder),
]
SkipOption = Annotated[
    bool,
    typer.Option("--skip-unreadable", help="Leave image files out that cannot be read (data.skip_unreadable)."),
]
StartOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--start",
        help="Trained dense net to begin with, by folder, run or file of weights (train.start).",
        autocompletion=complete_start,
    ),
]
RecipeOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--recipe", metavar="RECIPE", help="For a stored net: what to hold it against.", autocompletion=complete_recipe
    ),
]
OpsOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--ops-target",
        metavar="AMOUNT",
        help="Operations to keep: a fraction of the dense net's, or such as 12.2M.",
    ),
]
ParamsOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--params-target", metavar="AMOUNT", help="Parameters to keep: a fraction of the dense net's, or such as 64k."
    ),
]
MemoryOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--memory-target",
        metavar="AMOUNT",
        help="Activation memory to keep: a fraction of the dense net's, or bytes such as 64KiB.",
    ),
]
LatencyOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--latency-target",
        metavar="AMOUNT",
        help="Latency to keep on the target: a fraction of the dense net's, or such as 5ms; needs its profile.",
    ),
]
SeedOption = Annotated[Optional[int], typer.Option("--seed", help="Seed of everything random.")]  # noqa: UP045
NameOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--name", help="Name of the run; made from the recipe when left out."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Do the stage again even if it is done.")]
TrustOption = Annotated[
    bool, typer.Option("--trust", help="Call the net's own code (package.module:factory) that a file names.")
]
TrackOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--track",
        metavar="NAME[:OPTION=VALUE,…]",
        help="Tracker that is told of the run, such as mlflow or tensorboard; may be repeated.",
        autocompletion=complete_tracker,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document; the exit code stays the same.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but results and errors.")]

RUNS = Path("runs")
HOST = "host-cpu"
"""The target where none is given."""


def overrides(
    set_: list[str] | None,
    ops: str | None = None,
    seed: int | None = None,
    data: Path | None = None,
    params: str | None = None,
    memory: str | None = None,
    start: Path | None = None,
    skip: bool = False,
    latency: str | None = None,
    targets: Sequence[str] | None = None,
) -> list[str]:
    """Turn the options into overrides of recipe fields; an option wins over ``--set``."""
    budget = {"ops": ops, "params": params, "memory": memory}
    for name, amount in budget.items():
        if amount is not None and not amount.strip():
            raise UsageError(f"--{name}-target (budget.{name}) is empty; give a fraction such as 0.3, or a number")
    if latency is not None and not latency.strip():
        raise UsageError("--latency-target (budget.latency.at_most) is empty; give a fraction such as 0.5, or 5ms")
    if latency is not None and targets and len(targets) > 1:
        raise UsageError(
            f"--latency-target is for one target, and {len(targets)} were given; prune for one of them first, with "
            "`robustdeploy prune … --target`"
        )
    limits = {f"budget.{name}": amount for name, amount in budget.items()}
    given = {**limits, "seed": seed, "data.path": data, "train.start": start}
    if latency is not None:
        given |= {"budget.latency.at_most": latency, "budget.latency.target": targets[0] if targets else HOST}
    given["data.skip_unreadable"] = "true" if skip else None
    return [*(set_ or []), *(f"{field}={value}" for field, value in given.items() if value is not None)]
