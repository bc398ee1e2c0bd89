"""Which precisions a target computes a net in: those that are asked for, with the options that its toolchain needs."""

from __future__ import annotations

from collections.abc import Sequence

from robustdeploy.core.complaint import did_you_mean
from robustdeploy.core.recipe import Choice, Recipe
from robustdeploy.core.registry import PRECISIONS
from robustdeploy.core.target import Target
from robustdeploy.errors import UsageError


def precisions_on(target: Target, asked: Sequence[Choice]) -> tuple[Choice, ...]:
    """Return the precisions that are asked for, as ``target`` takes them; its own first one where none is.

    Options of the target come last: what its toolchain cannot read is of no use to anybody. One that the target does
    not have is a UsageError.
    """
    own = {each.name: each for each in target.precisions}
    if missing := [each.name for each in asked if each.name not in own]:
        near = did_you_mean(missing[0], own)
        raise UsageError(
            f"target {target.name} has no precision '{missing[0]}'{near} (it has: {', '.join(own)}); choose one of "
            "these, or add it to the target's `precisions`"
        )
    return tuple(
        Choice(name=each.name, options={**each.options, **own[each.name].options})
        for each in asked or target.precisions[:1]
    )


def asked_precisions(recipe: Recipe, names: Sequence[str]) -> tuple[Choice, ...]:
    """Return the precisions called ``names``, with the recipe's options for them; all of its own for none."""
    own = {each.name: each for each in recipe.precisions}
    return tuple(own.get(name, Choice(name=name)) for name in dict.fromkeys(names)) or recipe.precisions


def form_of(choice: Choice, asked: Sequence[Choice]) -> str:
    """Return what a target changes of a precision that was ``asked`` for, as part of a folder's name; often nothing."""
    wanted = next((each for each in asked if each.name == choice.name), Choice(name=choice.name))
    if choice == wanted:
        return ""
    usual, own = (vars(PRECISIONS.build(each.name, each.options)) for each in (wanted, choice))
    other = {name: value for name, value in own.items() if value != usual[name]}
    # A word says by itself what it is of; a number does not.
    return "-".join(value if isinstance(value, str) else f"{name}{value:g}" for name, value in other.items())
