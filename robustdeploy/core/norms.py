"""Norms: which attacks and training tasks have the threat's, and what is said of those that lack it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from robustdeploy.core.complaint import Place
from robustdeploy.core.ensembles import listed
from robustdeploy.core.recipe import Choice, PlugIn, Recipe
from robustdeploy.core.registry import REGISTRIES, Registry
from robustdeploy.errors import RecipeError
from robustdeploy.onboard.types import SIGNS

Registries = Mapping[str, Registry[Any]]
_CHOICE: TypeAdapter[Choice] = TypeAdapter(PlugIn)
_ATTACKS = ("attacks", "query-attacks", "substitutes", "engine-attacks")
DEFAULT = ("linf",)
"""The norms of a plug-in that does not say."""


def norm_problems(recipe: Recipe, registries: Registries = REGISTRIES) -> Iterator[tuple[Place, str]]:
    """Say which attacks and tasks of a recipe lack the norm of the threat that they are for, and what has it."""
    norm = recipe.attacked_within.norm
    for index, choice in enumerate(recipe.evaluate.attacks):
        for name in _runs(choice, registries):
            if not _has(norm, name, registries, _ATTACKS):
                yield ("evaluate", "attacks", index), lacks(norm, name, registries)
                break
    norm = recipe.threat.norm
    for task in dict.fromkeys(_tasks(recipe)):
        if not _has(norm, task, registries, ("tasks",)):
            yield (
                ("threat", "norm"),
                f"{task} trains inside an ℓ∞ ball alone; keep `threat` in linf and give evaluate.threat: "
                f"{{norm: {norm}, eps: {recipe.threat.eps:g}}}, or train with {_names(norm, registries, ('tasks',))}",
            )


def lacks(norm: str, name: str, registries: Registries = REGISTRIES) -> str:
    """Return the sentence about an attack without a form in ``norm``, with those that have one."""
    return f"the attack '{name}' has no {SIGNS[norm]} form; these have one: {_names(norm, registries, _ATTACKS)}"


def _runs(choice: Choice, registries: Registries) -> Iterator[str]:
    """Yield the names of what an attack of a recipe runs: its parts, and what it runs on another net."""
    try:
        parts: Sequence[Choice] = [part for part, _ in listed((choice,), registries)]
    except RecipeError:  # told by the check of its options
        return
    for part in parts:
        yield part.name
        if inner := part.options.get("attack"):
            try:
                yield _CHOICE.validate_python(inner).name
            except ValidationError:
                continue


def _tasks(recipe: Recipe) -> Iterator[str]:
    """Yield the tasks that train anything."""
    phases = recipe.train.phases
    if not phases or any(phase.objective is None for phase in phases):
        yield recipe.train.task.name
    yield from (phase.objective.name for phase in phases if phase.objective is not None)


def _has(norm: str, name: str, registries: Registries, kinds: Sequence[str]) -> bool:
    # What is no plug-in is told elsewhere.
    found = next((registries[kind] for kind in kinds if name in registries[kind]), None)
    return found is None or norm in found.trait(name, "NORMS", DEFAULT)


def _names(norm: str, registries: Registries, kinds: Sequence[str]) -> str:
    return ", ".join(name for kind in kinds for name in registries[kind].names() if _has(norm, name, registries, kinds))
