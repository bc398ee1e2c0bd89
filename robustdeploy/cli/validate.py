"""``robustdeploy validate``: check recipes, targets, comparisons, presets and gate files, all problems at once."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from robustdeploy.cli.completion import complete_yaml
from robustdeploy.cli.heavy import preparation
from robustdeploy.cli.options import JsonOption
from robustdeploy.cli.result import refuse, show
from robustdeploy.comparing.going import checked
from robustdeploy.core.load import (
    kind_of_file,
    load_comparison,
    load_published,
    load_recipe,
    load_target,
    load_threat_preset,
    yaml_files,
)
from robustdeploy.core.registry import REGISTRIES
from robustdeploy.errors import DataError, RecipeError, UsageError
from robustdeploy.foreign import sentence
from robustdeploy.preflight import check_recipe, check_rules, remarks
from robustdeploy.report.load import load_report, load_rules

FilesArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE…",
        help="Recipe, target, comparison or gate files, or folders of them.",
        autocompletion=complete_yaml,
    ),
]


def validate(files: FilesArgument, as_json: JsonOption = False) -> None:
    """Check files that users write.

    A recipe has a `net` or `data`, a target has a `backend` or `link`, a comparison has `rows`, a threat preset has
    `on`, a gate file has `rules`.
    """
    problems: dict[str, list[str]] = {}
    for file in _all(files):
        try:
            check_file(file)
            problems[str(file)] = []
        except UsageError as error:
            problems[str(file)] = list(error.args)
    if wrong := [line for found in problems.values() for line in found]:
        refuse(RecipeError(*wrong), problems, as_json)
    show((f"{file}: ok" for file in problems), problems, as_json)


def _all(files: list[Path]) -> list[Path]:
    """Return the files themselves, and of a folder each YAML file in it."""
    found = []
    for path in files:
        inside = yaml_files(path) if path.is_dir() else [path]
        if not inside:
            raise UsageError(f"there is no YAML file in the folder {path}")
        found += inside
    return found


def check_file(file: Path) -> None:
    """Check one file of whatever kind its keys make it; all that is wrong with it is one UsageError."""
    recipe = partial(load_recipe, foresee=True, before=check_recipe)
    loaders: dict[str, Any] = {
        "recipe": recipe,
        "target": load_target,
        "comparison": _comparison,
        "threat preset": partial(load_threat_preset, registries=REGISTRIES),
        "published figures": load_published,
        "gate file": load_rules,
        "report": load_report,
    }
    kind = kind_of_file(file)
    loaded = loaders[kind](file)
    if kind == "recipe":
        _check_rules(file, loaded)
    for remark in remarks(loaded) if kind == "recipe" else ():
        print(sentence(f"note: {file}: {remark}"), file=sys.stderr)


def _comparison(file: Path) -> None:
    """Check a plan and every recipe that it makes."""
    loaded = load_comparison(file)
    try:
        checked(loaded)
    except UsageError as error:
        raise RecipeError(*(f"{file}: {line}" for line in error.args)) from error


def _check_rules(file: Path, recipe: Any) -> None:
    """Hold a recipe's rules against its data set where that is here: number of images, names of classes, costs."""
    try:
        check_rules(recipe, dense=_dense_costs)
    except RecipeError as error:
        raise RecipeError(*(f"{file}: {line}" for line in str(error).splitlines())) from error
    except DataError:  # the data set is somewhere else, so nothing is known of it
        pass


def _dense_costs(recipe: Any) -> Any:
    return preparation.dense_costs(recipe)
