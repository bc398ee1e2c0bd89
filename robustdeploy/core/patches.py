"""Patch attacks of a recipe: each by its label, with a random patch beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustdeploy.core.recipe import Choice
from robustdeploy.core.registry import REGISTRIES, Registry
from robustdeploy.errors import UsageError

RANDOM = "random-patch"


def listed_patches(
    choices: Sequence[Choice], registries: Mapping[str, Registry[Any]] = REGISTRIES
) -> tuple[tuple[str, Choice], ...]:
    """Return the patch attacks of a recipe by label; before each size's first one a random patch of that size.

    Two of one label are a UsageError.
    """
    registry = registries["patches"]
    labels = [registry.build(choice.name, choice.options).label for choice in choices]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise UsageError(f"evaluate.patches holds '{twice[0]}' twice; keep one")
    listed: dict[str, Choice] = {}
    for label, choice in zip(labels, choices, strict=True):
        sizes = {name: value for name, value in choice.options.items() if name in ("area", "pixels")}
        # What hiding a part of the image costs must stand beside what the attack adds to that.
        if RANDOM in registry:
            beside = Choice(name=RANDOM, options=sizes)
            listed.setdefault(registry.build(RANDOM, sizes).label, beside)
        listed[label] = choice
    return tuple(listed.items())
