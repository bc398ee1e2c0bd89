"""Adversaries: which attacks of a recipe are run where, in which order, and how each was run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from robustdeploy.evaluate.attack import Adversary

T = TypeVar("T")


def in_torch(adversaries: Sequence[Adversary], deployed: bool) -> tuple[Adversary, ...]:
    """Return those that attack a net in torch; of one that is ``deployed`` the others ask what is deployed instead."""
    # A net that stays in torch is its own engine, and cannot differ from it.
    return tuple(a for a in adversaries if not (a.asks if deployed else a.kind == "divergence"))


def settings_of(adversaries: Sequence[Adversary], classes: int) -> dict[str, Mapping[str, Any]]:
    """Return how each attack and each ensemble was run on a net of ``classes``, by its label."""
    settings: dict[str, Mapping[str, Any]] = {}
    for adversary in adversaries:
        asked = dict(adversary.settings)
        # What was run, and not what was asked for: of two classes DLR is the margin, and there is one other class.
        asked |= {"loss": "margin, as dlr needs three classes"} if asked.get("loss") == "dlr" and classes < 3 else {}
        asked |= {"targets": min(asked["targets"], classes - 1)} if isinstance(asked.get("targets"), int) else {}
        settings[adversary.label] = asked
        if adversary.whole is not None:
            settings[adversary.whole.label] = {"attack": adversary.whole.name, **adversary.whole.options}
    return settings


def in_order(adversaries: Sequence[Adversary], clean: T, attack: Callable[[Adversary, T | None], T]) -> tuple[T, ...]:
    """Run attacks in their order, and return what each gave.

    A part of an ensemble is given what the part before it gave, the first one ``clean``; what stands alone is not.
    """
    made: list[T] = []
    for number, adversary in enumerate(adversaries):
        goes_on = number > 0 and adversaries[number - 1].whole == adversary.whole
        ahead = None if adversary.whole is None else made[-1] if goes_on else clean
        made.append(attack(adversary, ahead))
    return tuple(made)
