"""``robustdeploy evaluate``: attack and time what runs on a target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from robustdeploy.cli.completion import complete_attacks, complete_folder, complete_net
from robustdeploy.cli.heavy import api, evidence
from robustdeploy.cli.options import (
    RUNS,
    DataOption,
    ForceOption,
    JsonOption,
    PrecisionsOption,
    QuietOption,
    RecipeOption,
    RunsOption,
    SetOption,
    SkipOption,
    TargetOption,
    TrackOption,
    TrustOption,
    overrides,
)
from robustdeploy.cli.result import show
from robustdeploy.core.callback import Callback
from robustdeploy.core.cluster import HERE, check_sharing
from robustdeploy.core.given import is_net_file, is_stored_net, kind_of_net
from robustdeploy.core.load import load_recipe, load_target
from robustdeploy.core.plain import plain
from robustdeploy.core.precisions import asked_precisions, precisions_on
from robustdeploy.core.recipe import Choice, Evaluate
from robustdeploy.core.settings import is_own
from robustdeploy.core.settings import overrides as core_overrides
from robustdeploy.core.target import Target
from robustdeploy.data.find import looking_once
from robustdeploy.data.replay_set import check_replay_set
from robustdeploy.engine.run import Run
from robustdeploy.errors import UsageError
from robustdeploy.preflight import check_evaluable, recipe_to_import
from robustdeploy.tracking.chosen import listening

AttacksOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--attacks",
        metavar="A,B",
        help="Attacks to run instead of the recipe's, with their defaults.",
        autocompletion=complete_attacks,
    ),
]
ReplayOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--replay",
        metavar="FOLDER",
        help="Replay set whose images are tried too; `robustdeploy collect` makes one.",
        autocompletion=complete_folder,
    ),
]
NetOrRunArgument = Annotated[
    Optional[Path],  # noqa: UP045 - Typer reads it at run time
    typer.Argument(
        metavar="RUN",
        help="Run by folder or name, the latest when left out; a folder with net.json; or a file with a net.",
        autocompletion=complete_net,
    ),
]
LimitOption = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--limit", help="Test images to use, the first of a fixed shuffle."),
]
WorkersOption = Annotated[
    int,
    typer.Option("--workers", min=1, help="Processes that share the attacks in torch; results are the same."),
]
OnOption = Annotated[
    str,
    typer.Option("--on", help="Where attacks in torch are run: here, or ray://HOST:PORT; results are the same."),
]


def evaluate(
    run: NetOrRunArgument = None,
    target: TargetOption = "host-cpu",
    precision: PrecisionsOption = None,
    attacks: AttacksOption = None,
    replay: ReplayOption = None,
    limit: LimitOption = None,
    recipe: RecipeOption = None,
    data: DataOption = None,
    skip_unreadable: SkipOption = False,
    set_: SetOption = None,
    runs: RunsOption = RUNS,
    force: ForceOption = False,
    trust: TrustOption = False,
    workers: WorkersOption = 1,
    on: OnOption = HERE,
    track: TrackOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Attack and time what runs on a target.

    The agent and the engine are sent there first; a repeated command resumes.

    A net that is trained already, in a folder with net.json and model.safetensors or in a file that import takes,
    becomes a run of its own first.
    """
    check_sharing(workers, on)
    used, other = _split(overrides(set_), attacks, limit)
    if replay is not None:
        check_replay_set(replay)
    with listening(track, quiet or as_json) as callback, looking_once():
        goal = load_target(target)
        if run is not None and (is_stored_net(run) or is_net_file(run)):
            other += ["data.skip_unreadable=true"] if skip_unreadable and is_net_file(run) else []
            asked: dict[str, Any] = {"data": data, "runs": runs, "force": force, "trust": trust, "callback": callback}
            opened = _imported(run, goal, recipe, other, precision or (), **asked)
            word = trust or [opened.recipe.net]  # the import has found the user's word for it
        elif recipe is not None:
            raise UsageError("--recipe is for a folder that holds a net alone; a run has its own recipe")
        else:
            nets, other = _named_nets(other)
            word = trust or nets
            _refuse(other)
            opened = Run.open(run, runs)
        callback.say(f"run {opened.root}, target {goal.name}")
        check_evaluable(opened, goal, data, precision or ())
        # A recipe that is named again for a net that has its run by now says how, and does not become that run's own.
        base = opened.root / "recipe.yaml" if recipe is None else recipe
        settings = load_recipe(base, used).evaluate if used or replay or recipe is not None else None
        settings = _with_replay(settings, replay) if settings and replay else settings
        its: dict[str, Any] = {"settings": settings, "data": data, "force": force, "trust": word}
        its |= {"precisions": precision or (), "skip_unreadable": skip_unreadable, "workers": workers, "on": on}
        first = api.evaluate(opened, goal, **its, callback=callback).path.parent
    computed = [each.name for each in precisions_on(goal, asked_precisions(opened.recipe, precision or ()))]
    name = first.name.partition("@")[2]
    _show(opened, target, [first.with_name(f"{each}@{name}") for each in computed], settings, as_json)


def _imported(
    net: Path,
    target: Target,
    recipe: str | None,
    given: list[str],
    precisions: Sequence[str],
    *,
    data: Path | None,
    force: bool,
    trust: Sequence[Any],
    callback: Callback,
    **others: Any,
) -> Run:
    """Make a net that is trained already a run of its own, exported for ``target``."""
    if is_net_file(net):
        kind_of_net(net)
    recipe_to_import(net, recipe, [*given, *([] if data is None else [f"data.path={data}"])])
    how: dict[str, Any] = {"data": data, "overrides": given, "force": force, "trust": trust, **others}
    run = api.import_net(net, recipe, **how, callback=callback)
    word = trust or [run.recipe.net]
    api.export(run, target, precisions=precisions, force=force, trust=word, callback=callback)
    return run


def _split(given: Sequence[str], attacks: str | None, limit: int | None) -> tuple[list[str], list[str]]:
    """Tell the overrides of the evaluation, those that have options of their own among them, from all others."""
    used = [each for each in given if _is_of("evaluate", each)]
    used += [] if attacks is None else [f"evaluate.attacks=[{attacks}]"]
    used += [] if limit is None else [f"evaluate.limit={limit}"]
    return used, [each for each in given if not _is_of("evaluate", each)]


def _with_replay(settings: Evaluate, folder: Path) -> Evaluate:
    """Put the replay set in ``folder`` behind the attacks."""
    replayed = Choice(name="replay", options={"source": str(folder)})
    return settings.model_copy(update={"attacks": (*settings.attacks, replayed)})


def _show(run: Run, target: str, folders: Sequence[Path], settings: Evaluate | None, as_json: bool) -> None:
    changed = [] if settings is None else core_overrides(run.recipe.evaluate, plain(settings))
    found, lines = {}, []
    for folder in folders:
        found[folder] = evidence.read_rows(folder / "rows.json").model_dump(mode="json")
        lines += [str(folder)] if len(folders) > 1 else []
        lines += [_line(row) for row in found[folder]["measurements"] if not row["subject"].endswith("@torch")]
    name = folders[0].name.partition("@")[2]
    named = target if is_own(name) else name
    lines += [f"{folders[0] / 'outcomes.npz'} is written; next: robustdeploy report {run.root} --target {named}"]
    lines += [f"not the recipe's own evaluation: {change}" for change in changed]
    document: dict[str, Any] = {"overrides": [change.model_dump() for change in changed]}
    # In one precision, as is usual, its rows stand at the top.
    document |= {"run": str(run.root), "folder": str(folders[0]), **found[folders[0]]}
    document["beside"] = [{"folder": str(folder), **found[folder]} for folder in folders[1:]]
    show(lines, document, as_json)


def _is_of(part: str, override: str) -> bool:
    return override.lstrip().startswith((f"{part}.", f"{part}="))


def _named_nets(given: list[str]) -> tuple[list[Any], list[str]]:
    """Take ``--set net=…`` out: of a run it changes nothing, but names whose code may be called."""
    words = [each for each in given if each.replace(" ", "").startswith("net=")]
    nets = [load_recipe("digits-resnet8", [word]).net for word in words]
    return nets, [each for each in given if each not in words]


def _refuse(others: list[str]) -> None:
    """Refuse to override in a run what no evaluation may change: its training, and the rules it is held to."""
    for each in others:
        if _is_of("gate", each):
            raise UsageError(
                f"--set {each} would change what the run must meet; judge by other rules with `robustdeploy gate "
                "--rules FILE`"
            )
        if _is_of("threat", each):
            raise UsageError(
                f"--set {each} would change what was trained; to attack in another ball give it to the evaluation: "
                "--set 'evaluate.threat={norm: l2, eps: 0.5}'"
            )
        raise UsageError(f"--set {each} would change what was trained; evaluate takes evaluate.* and --data")


def _line(row: dict[str, Any]) -> str:
    name = f"{row['metric']} {row['attack'] or ''} {row['kind'] or ''}".strip()
    fraction = row["unit"] == "fraction"
    value = f"{row['value']:.2%}" if fraction else f"{row['value']:.4g} {row['unit']}"
    if row["low"] is None:
        return f"{name:<48} {value}"
    low, high = (f"{row[side]:.2%}" if fraction else f"{row[side]:.4g}" for side in ("low", "high"))
    return f"{name:<48} {value}  [{low}, {high}], n = {row['n']:,}"
