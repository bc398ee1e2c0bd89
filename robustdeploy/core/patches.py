"""Patch attacks of a recipe: each by its label, with a random patch beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustdeploy.core.recipe import Choice
from robustdeploy.core.registry import REGISTRIES, Registry
from robustdeploy.errors import UsageError

RANDOM = "random-patch"


def patch_passes(choices: Sequence[Choice]) -> tuple[int, int]:
    """Return what patch attacks take of each net that they are found on, at most, as far as they say it.

    That is how often each image goes through it, and how many images do in all while an attack learns.
    """
    built = [REGISTRIES["patches"].build(choice.name, choice.options) for choice in choices]
    each, learning = (sum(int(getattr(one, of, 0)) for one in built) for of in ("passes", "learning_passes"))
    return each, learning


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
