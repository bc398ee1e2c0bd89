"""The ladder of attacks: one that does all that another does, and more, must not break less."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from robustdeploy.core.report import Diagnostic
from robustdeploy.evaluate.attack import Adversary
from robustdeploy.evaluate.intervals import clopper_pearson_lower
from robustdeploy.evaluate.outcomes import Outcomes

CONFIDENCE = 0.99


def ladder_diagnostic(outcomes: Outcomes, adversaries: Sequence[Adversary]) -> Iterator[Diagnostic]:
    """Compare, per image, each gradient attack with all that are stronger by their settings; none: say nothing."""
    gradients = [each for each in adversaries if each.gradient is not None]
    robust = {each.label: outcomes.robust(each, "board") for each in outcomes.attacks}
    found = []
    for weak in gradients:
        above = [each.label for each in gradients if _is_stronger(each, weak)]
        if above:
            # All of the stronger ones left alone what the weaker one broke.
            missed = np.logical_and.reduce([robust[label] for label in above]) & ~robust[weak.label]
            bound = clopper_pearson_lower(int(missed.sum()), len(missed), CONFIDENCE)
            found.append((bound, int(missed.sum()), weak.label, ", ".join(above)))
    if not found:
        return
    bound, count, weaker, above_it = max(found)
    yield Diagnostic(
        id="attack-ladder",
        level="warn" if bound > 0.01 else "ok",
        text=(
            f"{weaker} broke {count} of {len(outcomes.ids)} images that all attacks above it ({above_it}) left alone "
            f"(99 % lower bound {bound:.2%}, limit 1 %)"
        ),
        value=bound,
        threshold=0.01,
        flatters=True,  # more steps and restarts may find more still
    )


def _is_stronger(one: Adversary, other: Adversary) -> bool:
    """Whether an attack by itself has another's loss, at least its steps and starts, and more of one.

    A part of an ensemble, which counts what those before it broke, stands above all attacks of no more steps.
    """
    steps = [getattr(each.gradient, "steps", None) for each in (one, other)]
    # A plug-in may call anything `steps`.
    if type(steps[0]) is not int or type(steps[1]) is not int or other.whole is not None or steps[0] < steps[1]:
        return False
    if one.whole is not None:
        return True
    restarts = [getattr(each.gradient, "restarts", 1) for each in (one, other)]
    losses = [getattr(each.gradient, "loss", None) for each in (one, other)]
    alike = type(one.gradient) is type(other.gradient) and losses[0] == losses[1]
    return alike and restarts[0] >= restarts[1] and (steps[0] > steps[1] or restarts[0] > restarts[1])
