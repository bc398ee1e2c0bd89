"""Strength: the least that must have been tried before a robust accuracy is evidence. All of it is stated here.

An attack that is too weak leaves a high number standing, and no interval shows it. So below this floor a rule on
robustness is INCONCLUSIVE, whatever was measured. The numbers follow the checklist of Carlini et al., "On evaluating
adversarial robustness" (2019), and the flags of AutoAttack (Croce and Hein, ICML 2020).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from robustdeploy.core.metrics import ROBUST_METRICS
from robustdeploy.core.report import Diagnostic, Measurement
from robustdeploy.evaluate.attack import Adversary
from robustdeploy.onboard.types import Needs, Threat

IMAGES = 100
"""Test images attacked."""
STEPS = 20
"""Gradient steps from each start."""
REACH = 2.0
"""Steps × step size over eps: from one side of the box to the other."""
RESTARTS = 5
"""Random starts, over all gradient attacks that take enough steps."""
LOSSES = {"cross-entropy": ("cross-entropy",), "margin": ("margin", "dlr")}
"""Of each row one must be climbed: scores that blind the one leave the other its gradient."""
QUERIES: Mapping[Needs, int] = {"scores": 500, "labels": 1000}
"""Queries per image of one query attack, by what it reads of an answer; a label alone tells less."""
FIRST_SQUARES = 0.05
"""Share of the image that a query attack by squares begins with, as published; smaller ones find little."""
CURVE_IMAGES = 50
"""Images of the curve of robustness over eps."""
CURVE_REACH = 1.5, 8.0
"""The curve has a radius between these multiples of eps; beyond, where no net sees anything, all nets fail."""


def strength_diagnostic(
    adversaries: Sequence[Adversary], threat: Threat, images: int, curve: Sequence[Measurement]
) -> Diagnostic:
    """Say what an evaluation lacks for a verdict on robustness; ``curve`` holds the board's rows over eps."""
    lacking = [*_lacking_attacks(adversaries, threat), *_lacking_images(images, curve)]
    text = (
        "this evaluation is below the least strength for a verdict on robustness: " + "; ".join(lacking)
        if lacking
        else "attacks, images and curve reach the least strength for a verdict on robustness"
    )
    return Diagnostic(
        id="least-strength",
        level="block" if lacking else "ok",
        text=text,
        value=len(lacking),
        threshold=0,
        metrics=ROBUST_METRICS,
        flatters=True,  # a stronger attack finds more, and a net that fails a weak one fails it too
    )


def _lacking_attacks(adversaries: Sequence[Adversary], threat: Threat) -> Iterator[str]:
    # The box has whole levels, so a radius between two of them is no larger than the lower one.
    eps = threat.length / 255
    gradients = [part for each in adversaries if each.gradient for part in _parts(each.gradient)]
    # Results are rounded to 8 bits, and no step of all pixels below one level survives that; in other norms it may.
    least = 1 / 255 if threat.norm == "linf" else 0.0
    found = [_gradient_flaw(attack, eps, least) for attack in gradients]
    serious = [attack for attack, flaw in zip(gradients, found, strict=True) if not flaw]
    if not serious:
        iterative = [flaw for flaw in found if flaw and not flaw.startswith("it takes no")]
        told = f" ({iterative[0]})" if iterative else ""
        room = "box" if threat.norm == "linf" else "ball"
        yield f"no gradient attack takes {STEPS} steps that can cross the {room}{told}"
    else:
        climbed = {getattr(attack, "loss", "cross-entropy") for attack in serious}
        for loss, enough in LOSSES.items():
            if not climbed.intersection(enough):
                yield f"no gradient attack of {STEPS} steps climbs the {loss} (pgd with `loss: {loss}`)"
        if (starts := sum(_starts(attack) for attack in serious)) < RESTARTS:
            yield f"its gradient attacks start {starts} times in all ({RESTARTS} needed)"
    # Attacks without that option do not search by squares, and count.
    wide = [a for a in adversaries if a.query and getattr(a.query, "p_init", 1.0) >= FIRST_SQUARES]
    if not wide and any(a.query for a in adversaries):
        yield f"its query attacks begin with squares of less than {FIRST_SQUARES:.0%} of the image (p_init)"
        return
    if not any(_asks_enough(each) for each in wide):
        most = max((each.budget or 0 for each in wide), default=0)
        told = f" (the most is {most})" if most else ""
        yield f"no query attack may ask {QUERIES['scores']} times per image, {QUERIES['labels']} by labels alone{told}"


def asked_for_labels(adversaries: Sequence[Adversary]) -> bool:
    """Say whether one of them reads labels alone and may ask often enough."""
    return any(each.needs == "labels" and _asks_enough(each) for each in adversaries)


def _asks_enough(adversary: Adversary) -> bool:
    """Say whether a query attack may ask as often as one must that reads what it reads."""
    return adversary.needs is not None and (adversary.budget or 0) >= QUERIES[adversary.needs]


def _parts(attack: Any) -> Sequence[Any]:
    """Attacks that one is made of, where it says so in ``parts``; of most that is the attack alone."""
    parts = getattr(attack, "parts", ())
    # A plug-in may call anything `parts`.
    return parts if isinstance(parts, list | tuple) and parts else (attack,)


def _starts(attack: Any) -> int:
    """How often an attack sets out: ``starts`` where it says so, and else as often as it restarts."""
    return int(getattr(attack, "starts", getattr(attack, "restarts", 1)))


def _gradient_flaw(attack: Any, eps: float, least: float) -> str | None:
    """Say why a gradient attack does not count, or None if it does; no step is shorter than ``least``."""
    steps = getattr(attack, "steps", None)
    if steps is None:
        return "it takes no steps"
    alpha = getattr(attack, "alpha", None)
    size = max(alpha if alpha is not None else eps / 4, least)
    if steps < STEPS:
        return f"{attack.label} takes {steps}"
    # Such steps jump from corner to corner and never look in between.
    if size > eps + 1e-9:
        return f"one step of {attack.label} is {size / eps:.3g} times eps"
    # A start near one side must be able to reach the other, or restarts add nothing.
    if steps * size < REACH * eps - 1e-9:
        return f"all steps of {attack.label} together are {steps * size / eps:.2g} times eps, and {REACH:g} are needed"
    return None


def _lacking_images(images: int, curve: Sequence[Measurement]) -> Iterator[str]:
    if images < IMAGES:
        yield f"only {images} test images were attacked ({IMAGES} needed)"
    near, far = CURVE_REACH
    if not curve:
        yield "robustness was not measured over eps (evaluate.eps_curve is empty)"
        return
    if not any(near <= float(row.conditions.get("multiple", 0)) <= far for row in curve):
        yield f"evaluate.eps_curve has no radius between {near:g} and {far:g} times eps"
    if (n := min(row.n for row in curve)) < CURVE_IMAGES:
        yield f"the curve over eps rests on {n} images ({CURVE_IMAGES} needed)"
