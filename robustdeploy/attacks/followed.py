"""Followed: the gradient attack that another attack runs on a net of its own."""

from __future__ import annotations

from robustdeploy.attacks.protocol import GradientAttack
from robustdeploy.core.recipe import Choice
from robustdeploy.core.registry import ATTACKS


def followed(choice: Choice) -> GradientAttack:
    """Build the attack that ``choice`` names; a RecipeError says what is wrong with it."""
    built: GradientAttack = ATTACKS.build(choice.name, choice.options)
    return built
