"""``robustdeploy ls``: what there is, one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from robustdeploy.cli.options import JsonOption

if TYPE_CHECKING:
    from robustdeploy.core.recipe import Recipe
    from robustdeploy.core.target import Target

_KINDS = (
    "recipes",
    "targets",
    "nets",
    "data",
    "attacks",
    "query-attacks",
    "backends",
    "pruners",
    "tasks",
    "links",
    "formats",
    "metrics",
)

KindArgument = Annotated[
    str,
    typer.Argument(
        metavar="KIND",
        help=f"One of {', '.join(_KINDS)}; everything when left out.",
        autocompletion=lambda incomplete: [kind for kind in _KINDS if kind.startswith(incomplete)],
    ),
]


def ls(kind: KindArgument = "", as_json: JsonOption = False) -> None:
    """List recipes, targets and plug-ins with what they are and the file they come from."""
    from robustdeploy.cli.result import show
    from robustdeploy.core.complaint import did_you_mean
    from robustdeploy.errors import UsageError

    if kind and kind not in _KINDS:
        raise UsageError(f"there is no list of '{kind}'{did_you_mean(kind, _KINDS)} (lists: {', '.join(_KINDS)})")
    found = {each: _listed(each) for each in ([kind] if kind else _KINDS)}
    lines = []
    for each, entries in found.items():
        lines += [each] if not kind else []
        width = max((len(entry["name"]) for entry in entries), default=0)
        lines += [f"{'' if kind else '  '}{entry['name']:<{width}}  {entry['summary']}" for entry in entries]
    show("\n".join(lines), found[kind] if kind else found, as_json)


def _listed(kind: str) -> list[dict[str, str]]:
    from robustdeploy.core import metrics
    from robustdeploy.core.load import load_recipe, load_target, shipped_names
    from robustdeploy.core.registry import REGISTRIES

    if kind == "metrics":
        return [
            _entry(each.name, f"{each.meaning} ({each.unit})", metrics.__file__) for each in metrics.METRICS.values()
        ]
    if kind == "recipes":
        return [_shipped("recipes", name, load_recipe(name, registries=None)) for name in shipped_names("recipes")]
    if kind == "targets":
        return [_shipped("targets", name, load_target(name, registries=None)) for name in shipped_names("targets")]
    registry = REGISTRIES[kind]
    return [_entry(name, registry.summary(name), registry.origin(name)) for name in registry.names()]


def _shipped(kind: Literal["recipes", "targets"], name: str, loaded: Recipe | Target) -> dict[str, str]:
    from robustdeploy.core.load import shipped_folder

    return _entry(name, loaded.description, shipped_folder(kind) / f"{name}.yaml")


def _entry(name: str, summary: str, origin: object) -> dict[str, str]:
    return {"name": name, "summary": summary, "origin": str(origin)}
