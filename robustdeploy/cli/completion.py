"""What the shell offers when a user presses the tab key: every name that can be chosen, found without torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from robustdeploy.core.complaint import fields_of
from robustdeploy.core.kinds import KINDS
from robustdeploy.core.load import load_comparison
from robustdeploy.core.plug_in_fields import EACH, plug_in_fields
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.registry import (
    ATTACKS,
    ENGINE_ATTACKS,
    ENSEMBLES,
    FORMATS,
    PRECISIONS,
    QUERY_ATTACKS,
    REGISTRIES,
    SUBSTITUTES,
    TRACKERS,
)
from robustdeploy.core.shipped import ShippedKind, shipped_names
from robustdeploy.errors import RobustdeployError

LISTS = ("recipes", "targets", "comparisons", "threats", *KINDS, "metrics")
"""What ``ls`` lists, beside the runs."""
RUNS_LIST = "runs"
NOUNS = ("recipe", "target", "comparison", "report", "gate")


def complete_recipe(incomplete: str) -> list[str]:
    """Names of the shipped recipes, and YAML files."""
    return _shipped("recipes", incomplete)


def complete_target(incomplete: str) -> list[str]:
    """Names of the shipped targets, and YAML files."""
    return _shipped("targets", incomplete)


def complete_comparison(incomplete: str) -> list[str]:
    """Names of the shipped comparisons, and YAML files."""
    return _shipped("comparisons", incomplete)


def complete_row(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of the rows of the comparison that was named."""
    given = str(ctx.params.get("plan") or next(iter(ctx.args), "") or "digits-resnet8")
    try:
        rows = load_comparison(given, registries=None).rows
    except RobustdeployError:
        return []
    return _beginning(incomplete, [row.name for row in rows])


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of the runs in the folder that ``--runs`` names."""
    return _runs(Path(ctx.params.get("runs") or "runs"), incomplete)


def complete_evaluation(ctx: typer.Context, incomplete: str) -> list[str]:
    """Evaluations of the run that was named, those under other settings too; without one, what a target may be."""
    given = ctx.params.get("run") or next(iter(ctx.args), "")  # an option that is not whole keeps words in the latter
    root = Path(given)
    places = (root, Path(ctx.params.get("runs") or "runs") / root)
    made = [path for place in places if root.name for path in place.glob("boards/*/*/manifest.json")]
    found = {path.parent.name.partition("@")[2] for path in made}
    return _beginning(incomplete, sorted(found)) if found else complete_target(incomplete)


def complete_yaml(incomplete: str) -> list[str]:
    """YAML files."""
    return _files(incomplete, (".yaml", ".yml"))


def complete_start(incomplete: str) -> list[str]:
    """Runs, and folders, which may hold a net."""
    return [*_runs(Path("runs"), incomplete), *_files(incomplete, ())]


def complete_folder(incomplete: str) -> list[str]:
    """Folders."""
    return _files(incomplete, ())


def complete_report(ctx: typer.Context, incomplete: str) -> list[str]:
    """Runs, and reports as files."""
    return [*complete_run(ctx, incomplete), *_files(incomplete, (".json",))]


def complete_net(ctx: typer.Context, incomplete: str) -> list[str]:
    """Runs, and folders, which may hold a net."""
    return [*complete_run(ctx, incomplete), *_files(incomplete, ())]


def complete_files(incomplete: str) -> list[str]:
    """Files and folders."""
    return _files(incomplete, ())


def complete_attacks(incomplete: str) -> list[str]:
    """Names of attacks, one after the other with commas between."""
    kinds = (ATTACKS, QUERY_ATTACKS, SUBSTITUTES, ENGINE_ATTACKS, ENSEMBLES)
    return _after_commas(incomplete, sorted({name for kind in kinds for name in kind.names()}))


def complete_formats(incomplete: str) -> list[str]:
    """Names of report formats, one after the other with commas between."""
    return _after_commas(incomplete, FORMATS.names())


def complete_tracker(incomplete: str) -> list[str]:
    """Names of trackers."""
    return _beginning(incomplete, TRACKERS.names())


def complete_precision(incomplete: str) -> list[str]:
    """Names of precisions."""
    return _beginning(incomplete, PRECISIONS.names())


def complete_list(incomplete: str) -> list[str]:
    """What ``ls`` can list."""
    return _beginning(incomplete, (*LISTS, RUNS_LIST))


def complete_noun(incomplete: str) -> list[str]:
    """What ``schema`` has schemas of."""
    return _beginning(incomplete, NOUNS)


def complete_set(incomplete: str) -> list[str]:
    """Fields of a recipe, and after ``=`` their values where these can be chosen from."""
    field, equals, value = incomplete.partition("=")
    if equals:
        return [f"{field}={choice}" for choice in _beginning(value, _choices(field))]

    return _beginning(field, (f"{name}=" for name in _fields(Recipe)))


def _choices(field: str) -> Iterable[str]:
    if field == "train.device":
        return ("auto", "cpu", "cuda")

    if field in (chosen := _plug_ins(Recipe)):
        registry = REGISTRIES[chosen[field]]
        return sorted({*registry.names(), *registry.others()})
    kind = dict(_fields_with_types(Recipe)).get(field)
    if kind is bool:
        return ("true", "false")
    return map(str, get_args(kind)) if get_origin(kind) is Literal else ()


def _plug_ins(kind: Any) -> dict[str, str]:
    """Dotted names of the fields that choose one plug-in, each with its kind."""
    found = (field for field in plug_in_fields(kind) if EACH not in field.place)
    return {".".join((*map(str, field.place), *(["name"] if field.holder else []))): field.kinds[0] for field in found}


def _fields(kind: Any) -> list[str]:
    return [name for name, _ in _fields_with_types(kind)]


def _fields_with_types(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of the fields of a noun, those inside it in place of itself."""
    for name, field in fields_of(kind).items():
        inside = fields_of(field.annotation)
        if inside and set(inside) != {"name", "options"}:
            yield from _fields_with_types(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.annotation


def _shipped(kind: ShippedKind, incomplete: str) -> list[str]:
    return [*_beginning(incomplete, shipped_names(kind)), *_files(incomplete, (".yaml", ".yml"))]


def _runs(runs: Path, incomplete: str) -> list[str]:
    return sorted(path.parent.name for path in runs.glob(f"{_plain(incomplete)}*/recipe.yaml"))


def _files(incomplete: str, suffixes: tuple[str, ...]) -> list[str]:
    """Files of one kind beside what is written so far, and the folders on the way to others."""
    base, _, _ = incomplete.rpartition("/")
    found = []
    for path in sorted(Path().glob(f"{_plain(incomplete)}*") if not incomplete.startswith("/") else []):
        if path.is_dir() and not path.is_symlink() and (base or not suffixes or _holds(path, suffixes)):
            found.append(f"{path}/")
        elif path.suffix in suffixes and path.is_file():
            found.append(str(path))
    return found


def _holds(folder: Path, suffixes: tuple[str, ...]) -> bool:
    return any(path.suffix in suffixes for path in folder.iterdir())


def _after_commas(incomplete: str, names: Iterable[str]) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    given = set(before.split(","))
    return [f"{before}{comma}{name}" for name in _beginning(last, names) if name not in given]


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _plain(text: str) -> str:
    """Text for a glob in which its letters stand for themselves."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)
