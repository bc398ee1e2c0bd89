"""Start: whether a stored net is one that a recipe's training can begin with, as the two choices tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robustdeploy.core.factories import ONNX_FILE
from robustdeploy.core.plain import plain
from robustdeploy.core.recipe import Choice, Recipe
from robustdeploy.core.trust import told
from robustdeploy.errors import UsageError


def check_same_net(recipe: Recipe, net: Choice, preprocess: Sequence[Choice], smaller: int, start: Path) -> None:
    """Refuse ``net``, stored in ``start``, where it is not the recipe's, or compact: with ``smaller`` layers.

    ``preprocess`` are the steps in front of it.
    """
    if net.name == ONNX_FILE:
        raise UsageError(
            f"train.start: the net in {start} is an ONNX file, which has no layers of torch that could be trained or "
            "masked; import the weights that it was made of (robustdeploy import weights.pt --net …), and start there"
        )
    if net != recipe.net:
        raise UsageError(
            f"train.start: the net in {start} is {told(net)}, the recipe's {told(recipe.net)}; give a recipe of "
            f"that net, or --set 'net={told(net)}'"
        )
    check_same_steps(recipe, preprocess, start, "train.start: ")
    if smaller:
        raise UsageError(
            f"train.start: the net in {start} is compact already ({smaller} of its layers are smaller than "
            "dense), and a budget is of the dense net; start from the dense one"
        )


def check_same_steps(recipe: Recipe, preprocess: Sequence[Choice], stored: Path, whose: str = "") -> None:
    """Refuse a recipe that has other steps in front of its net than the net stored in ``stored`` has."""
    if plain(list(preprocess)) != plain(list(recipe.preprocess)):
        ours, theirs = (", ".join(map(told, each)) for each in (recipe.preprocess, preprocess))
        raise UsageError(
            f"{whose}in front of the net in {stored} stands [{theirs}], in front of the recipe's [{ours}]; give the "
            f"recipe the same: --set 'preprocess=[{theirs}]'"
        )
