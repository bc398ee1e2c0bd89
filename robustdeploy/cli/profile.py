"""``robustdeploy profile``: how long each layer takes on a target, over its channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from robustdeploy.cli.completion import complete_precision
from robustdeploy.cli.heavy import profiling
from robustdeploy.cli.options import (
    HOST,
    RUNS,
    DataOption,
    ForceOption,
    JsonOption,
    QuietOption,
    RunsOption,
    SetOption,
    TargetOption,
    overrides,
)
from robustdeploy.cli.result import show, table
from robustdeploy.core.asked import recipe_for
from robustdeploy.core.load import load_target
from robustdeploy.core.precisions import asked_precisions, precisions_on
from robustdeploy.core.profile import NEARLY
from robustdeploy.core.recipe import Choice, Recipe
from robustdeploy.core.target import Target
from robustdeploy.devices.profiles import check_profilable, profiles_beside
from robustdeploy.engine.run import Run
from robustdeploy.preflight import check_data, check_recipe
from robustdeploy.tracking.chosen import listening

if TYPE_CHECKING:
    from robustdeploy.core.profile import LayerKind, Profile

OfArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Recipe by name or YAML file, or a run, whose net is profiled.")
]
PrecisionOption = Annotated[
    Optional[str],  # noqa: UP045 - Typer reads it at run time
    typer.Option("--precision", help="What the net is computed in there.", autocompletion=complete_precision),
]
SecondsOption = Annotated[
    float, typer.Option("--seconds", min=1, help="Time for measuring; it may end sooner, or a little later.")
]


def profile(
    recipe: OfArgument = "digits-resnet8",
    target: TargetOption = HOST,
    precision: PrecisionOption = None,
    seconds: SecondsOption = 300,
    data: DataOption = None,
    set_: SetOption = None,
    runs: RunsOption = RUNS,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure how long each layer takes on a target.

    Nets with other numbers of channels are measured there, and their times taken apart. The profile shows in which
    multiples channels cost nothing to keep; a limit on latency (budget.latency) needs it.
    """
    goal = load_target(target)
    check_profilable(goal)

    def chosen(of: Recipe) -> Choice:
        return precisions_on(goal, asked_precisions(of, [precision] if precision else []))[0]

    def check(asked: Recipe) -> None:
        check_recipe(asked)
        check_data(asked.data)
        chosen(asked)

    loaded = _recipe(recipe, overrides(set_, data=data), runs, check)
    with listening(None, quiet or as_json) as callback:
        found, path = profiling.profile(
            loaded,
            goal,
            precision=chosen(loaded),
            folder=profiles_beside(runs),
            seconds=seconds,
            force=force,
            callback=callback,
        )
    told = {"best_multiple": found.best_multiple, "target_multiple": goal.channel_multiple}
    lines = chain(_lines(found), _multiple_lines(found, goal), _next(found, path))
    show(lines, {"file": str(path), **told, **found.model_dump(mode="json")}, as_json)


def _recipe(named: str, more: list[str], runs: Path, check: Callable[[Recipe], None]) -> Recipe:
    """Return the recipe of that name, or that of the run."""
    for place in (Path(named), runs / named):
        if (place / "recipe.yaml").is_file():
            return recipe_for(Run.open(place, runs).root / "recipe.yaml", overrides=more, before=check)
    return recipe_for(named, overrides=more, before=check)


def _lines(found: Profile) -> Iterator[str]:
    net, device = found.net, found.device
    yield (
        f"{net.net.name} in {found.precision} on {found.target} ({device.backend} {device.version}, "
        f"{device.identity.get('cpu_model', '')}): {found.dense_us:,.1f} us, {found.measured} nets measured"
    )
    yield (
        f"a net that it has not seen is foretold within {found.error_median:.1%} (median) and {found.error_worst:.1%} "
        "(worst)"
    )
    yield from table(_rows(found), right=range(1, 6))


def _multiple_lines(found: Profile, target: Target) -> Iterator[str]:
    """Say which multiple channels are best kept in, and whether the target knows."""
    if (best := found.best_multiple) is None:
        return
    yield from table(
        [
            ["channels in multiples of", *(str(each.multiple) for each in found.multiples)],
            ["% of the dense net's time", *(f"{100 * each.time:.0f}" for each in found.multiples)],
        ],
        right=range(1, 1 + len(found.multiples)),
    )
    yield "foretold for this net at 0.7, 0.5 and 0.3 of its operations, on average"
    own = target.channel_multiple
    kept = f"best kept in multiples of {best} here" if best > 1 else "any number is good here"
    if own == best:
        yield f"{kept}, as {target.name} says"
    elif own in found.good_multiples:
        yield f"{kept}; those of {own}, which {target.name} says, are as quick within {NEARLY - 1:.0%}"
    else:
        yield (
            f"{kept}, and {target.name} says {own}: prune with --set budget.preferred_multiple={best}, or write "
            f"`channel_multiple: {best}` into a target of your own"
        )


def _next(found: Profile, path: Path) -> Iterator[str]:
    yield f"{path} is written; next: robustdeploy prune … --latency-target 0.5 --target {found.target}"


def _rows(found: Profile) -> list[list[str]]:
    """Return a row for each kind of layer: how many there are, their share, and the multiples that its steps show."""
    rows = [["layers", "number", "us", "%", "multiple of inputs", "saves %", "of outputs", "saves %"]]
    for kind in found.kinds:
        its = [layer for layer in found.layers if layer.kind == kind.name]
        us = sum(_time(kind, layer.inputs, layer.outputs) for layer in its)
        quanta = [(kind.input_quantum, kind.input_gain), (kind.output_quantum, kind.output_gain)]
        steps = [cell for multiple, gain in quanta for cell in (str(multiple), f"{100 * gain:.1f}")]
        rows.append([kind.name, str(len(its)), f"{us:,.1f}", f"{100 * us / found.dense_us:.0f}", *steps])
    rest = ["all else", "", f"{found.overhead_us:,.1f}", f"{100 * found.overhead_us / found.dense_us:.0f}"]
    return [*rows, [*rest, "", "", "", ""]]


def _time(kind: LayerKind, inputs: int, outputs: int) -> float:
    return kind.us[kind.inputs.index(inputs)][kind.outputs.index(outputs)]
