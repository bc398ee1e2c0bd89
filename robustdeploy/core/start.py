"""Start: whether a stored net is one that a recipe's training can begin with, as the two choices tell."""

from __future__ import annotations

from pathlib import Path

from robustdeploy.core.factories import ONNX_FILE
from robustdeploy.core.recipe import Choice, Recipe
from robustdeploy.core.trust import told
from robustdeploy.errors import UsageError


def check_same_net(recipe: Recipe, net: Choice, smaller: int, start: Path) -> None:
    """Refuse ``net``, stored in ``start``, where it is not the recipe's, or compact: with ``smaller`` layers."""
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
    if smaller:
        raise UsageError(
            f"train.start: the net in {start} is compact already ({smaller} of its layers are smaller than "
            "dense), and a budget is of the dense net; start from the dense one"
        )
