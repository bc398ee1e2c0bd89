"""Diagnostics: checks of the evaluation itself. What blocks makes the verdict INCONCLUSIVE, never a pass.

They follow Carlini et al., "On evaluating adversarial robustness" (2019), the flags of AutoAttack (Croce and Hein, ICML
2020) and Pintor et al., "Indicators of attack failure" (NeurIPS 2022), recast as interval tests on stored images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from robustdeploy.core.metrics import ROBUST_METRICS
from robustdeploy.core.report import Diagnostic, Measurement
from robustdeploy.evaluate.box import violations
from robustdeploy.evaluate.intervals import clopper_pearson_lower
from robustdeploy.evaluate.judge import other_batch
from robustdeploy.evaluate.outcomes import Bits, Outcomes
from robustdeploy.evaluate.paths import STEPS, Paths
from robustdeploy.evaluate.strength import CURVE_REACH
from robustdeploy.onboard.types import Scores, Threat

# Stricter than the reports' 95 %: a dozen checks run at once, and a false alarm blocks a sound net.
CONFIDENCE = 0.99

Level = Literal["ok", "warn", "block"]


@dataclass(frozen=True)
class HostFindings:
    """What the host's net offers to gradient attacks, at the first test images, and whether it is a function."""

    without: int
    """Images at which the margin has no gradient at all."""
    lost: int
    """Images at which the cross-entropy has none in float32."""
    n: int
    """Images looked at."""
    faithful: float = 1.0
    """How often the gradient foretold whether a step in a random direction brings a wrong label nearer."""
    unsteady: str | None = None
    """Why an image's scores are not its own, with the layer at fault."""
    wild: int = 0
    """Images at which the cross-entropy's gradient is not finite."""
    paths: Paths | None = None
    """What was found along the steps of attacks; None: nothing."""


def diagnose(
    outcomes: Outcomes,
    threat: Threat,
    board_scores: Scores,
    host: HostFindings | None,
    curve: Sequence[Measurement],
    classes: int,
    agreement: float = 0.99,
    unsaturated: bool = False,
    labels_alone: bool = False,
) -> Iterator[Diagnostic]:
    """Return all diagnostics of one evaluation.

    ``host`` is None where a net has no gradient that could be looked at. ``curve`` holds the rows of robustness over
    eps on the board, by rising eps, and ``agreement`` is the least share of images that board and host must label
    alike. ``unsaturated`` says that gradients were followed on what goes into the softmax of a net that answers
    probabilities, and ``labels_alone`` that the net answers no scores.
    """
    yield _inside_box(outcomes, threat)
    if host is not None:
        yield _query_beats_transfer(outcomes)
        yield _zero_gradient(host)
        yield _lost_gradient(host)
        yield _finite_gradient(host)
        yield _loss_rises(host)
        yield _interior_points(outcomes, host)
        yield _lost_to_rounding(outcomes)
        yield _faithful_gradient(host)
        yield _iterative_beats_single_step(outcomes)
        yield _suspicious_gain(outcomes)
    yield _agreement(outcomes, agreement)
    yield _repeatable(outcomes, host)
    if not labels_alone:
        yield _scores_not_probabilities(board_scores, unsaturated)
    if curve:
        yield _falls_with_eps(curve, classes)


def _bound(bits: Bits) -> float:
    """Lower 99 % bound of the share of true bits."""
    return clopper_pearson_lower(int(bits.sum()), len(bits), CONFIDENCE)


def _level(blocked: bool, warned: bool = False) -> Level:
    return "block" if blocked else "warn" if warned else "ok"


def _inside_box(outcomes: Outcomes, threat: Threat) -> Diagnostic:
    # Attacks and their projection may be faulty. What is stored is compared in integers, where no rounding excuses a
    # pixel.
    attacks = *outcomes.attacks, *outcomes.dense_attacks
    stored = [each for attack in attacks for each in (attack.images, attack.host_images) if each is not None]
    outside = sum(violations(outcomes.images, each, threat) for each in stored)
    room = f"box of ±{threat.levels} grey levels" if threat.norm == "linf" else str(threat)
    text = f"{outside} stored adversarial images leave the {room} (integers compared)"
    return Diagnostic(id="inside-box", level=_level(outside > 0), text=text, value=outside, threshold=0)


def _query_beats_transfer(outcomes: Outcomes) -> Diagnostic:
    """Compare per image: a query attack that breaks what gradient attacks could not says that gradients mislead."""
    name = "query-beats-transfer"
    queries = [attack for attack in outcomes.attacks if attack.kind == "query"]
    # Others that ask the engine follow a gradient too, and prove nothing of gradients that are hidden.
    asking = [attack for attack in outcomes.attacks if attack.kind in ("query", "substitute")]
    transfers = [attack for attack in outcomes.attacks if attack.kind == "transfer"]
    if not queries or not transfers:
        lacking = "query" if not queries else "gradient"
        text = f"no {lacking} attack was run, so hidden gradients could not be noticed: add one to evaluate.attacks"
        return Diagnostic(id=name, level="block", text=text, flatters=True)
    # By image and not by share: two attacks may break as many images and still not the same ones.
    stood = np.logical_and.reduce([outcomes.robust(attack, "board") for attack in transfers])
    broken = stood & ~np.logical_and.reduce([outcomes.robust(attack, "board") for attack in asking])
    bound = _bound(broken)
    # AutoAttack flags 0.2 points as they are. At 100 images one broken image would be above that, hence a lower bound.
    blocked = bound > 0.002
    meaning = (
        "gradients of this net mislead the transfer attacks, or these are too weak (more steps, more restarts); "
        "what they say of its robustness is too good"
        if blocked
        else "no sign that gradients are hidden"
    )
    text = (
        f"query attacks broke {int(broken.sum())} of {len(broken)} images that stood against every transfer attack "
        f"(99 % lower bound {bound:.2%}, limit 0.20 %): {meaning}"
    )
    return Diagnostic(id=name, level=_level(blocked), text=text, value=bound, threshold=0.002, flatters=True)


def _zero_gradient(host: HostFindings) -> Diagnostic:
    # AutoAttack warns at a single image. Confident images lose their gradient in honest nets too, hence a share.
    meanings = "gradients are there to follow", "gradient attacks are blind there"
    level, text, share = _missing(host.without, host.n, "the net's margin has no gradient at all", meanings)
    return Diagnostic(id="zero-gradient", level=level, text=text, value=share, threshold=0.1, flatters=True)


def _lost_gradient(host: HostFindings) -> Diagnostic:
    """Saturated scores leave the margin its gradient, but the loss that attacks follow underflows to none."""
    meanings = "attacks can follow it", "scores of that size blind gradient attacks"
    level, text, share = _missing(host.lost, host.n, "the loss has no gradient in float32", meanings)
    return Diagnostic(id="lost-gradient", level=level, text=text, value=share, threshold=0.1, flatters=True)


def _finite_gradient(host: HostFindings) -> Diagnostic:
    """A step along NaN leads nowhere, and an attack that takes one gives the image back as it was."""
    meanings = "attacks can follow it", "gradient attacks are blind there"
    level, text, share = _missing(host.wild, host.n, "the loss has no finite gradient", meanings)
    return Diagnostic(id="finite-gradient", level=level, text=text, value=share, threshold=0.1, flatters=True)


def _missing(count: int, n: int, found: str, meanings: tuple[str, str]) -> tuple[Level, str, float]:
    """Warn above 1 % of the images that were looked at, and block above 10 %."""
    share = count / n
    text = f"{found} at {count} of {n} images ({share:.1%}): {meanings[share > 0.01]}"
    return _level(share > 0.1, share > 0.01), text, share


def _loss_rises(host: HostFindings) -> Diagnostic:
    """Steps along a gradient make the loss rise, or the gradient is not that of the loss."""
    flat = np.zeros(host.n, np.bool_) if host.paths is None else host.paths.flat
    bound = _bound(flat)
    meaning = "attacks that climb it do not get on" if bound > 0.01 else "attacks can climb it"
    text = (
        f"{STEPS} steps along the loss's gradient brought {int(flat.sum())} of {len(flat)} images no nearer to being "
        f"wrong (99 % lower bound {bound:.2%}, limit 10 %): {meaning}"
    )
    return Diagnostic(
        id="loss-rises",
        level=_level(bound > 0.1, bound > 0.01),
        text=text,
        value=bound,
        threshold=0.1,
        metrics=ROBUST_METRICS,
        flatters=True,  # an attack whose loss does not rise finds too little
    )


def _interior_points(outcomes: Outcomes, host: HostFindings) -> Diagnostic:
    """Look for images that every attack left alone, and that are wrong on the way to where one step leads."""
    inner = np.zeros(host.n, np.bool_) if host.paths is None else host.paths.inner
    missed = inner & outcomes.worst("board")[: len(inner)]
    bound = _bound(missed)
    overfitted = " (above 2 % that is a sign of catastrophic overfitting)" if _bound(inner) > 0.02 else ""
    text = (
        f"{int(inner.sum())} of {len(inner)} images are right where one step of FGSM ends and wrong on the way there"
        f"{overfitted}; every attack had left {int(missed.sum())} of these alone (99 % lower bound {bound:.2%}, limit "
        "0.20 %)"
    )
    return Diagnostic(
        id="interior-points",
        level=_level(bound > 0.002),
        text=text,
        value=bound,
        threshold=0.002,
        metrics=ROBUST_METRICS,
        flatters=True,  # the attacks missed images that fall
    )


def _lost_to_rounding(outcomes: Outcomes) -> Diagnostic:
    """Count what falls between grey levels alone: an attack that does not round while it searches finds too little."""
    lost = [attack.lost for attack in outcomes.attacks if attack.lost is not None]
    between = np.logical_or.reduce([np.zeros(len(outcomes.ids), np.bool_), *lost]) & outcomes.worst("board")
    bound = _bound(between)
    text = (
        f"{int(between.sum())} of {len(between)} images fell before an attack's result was rounded to 8 bits, and to "
        f"no attack afterwards (99 % lower bound {bound:.2%}, limit 1 %)"
    )
    return Diagnostic(
        id="lost-to-rounding",
        level=_level(False, bound > 0.01),
        text=text,
        value=bound,
        threshold=0.01,
        flatters=True,  # near such an image a wrong one in 8 bits may lie
    )


def _faithful_gradient(host: HostFindings) -> Diagnostic:
    """A gradient that is not the net's own leads attacks astray however many steps they take."""
    share = host.faithful
    meaning = "it describes the net" if share >= 0.9 else "attacks that follow it are led astray"
    text = (
        f"the gradient foretold in {share:.1%} of the trials whether a small step along a random direction brings a "
        f"wrong label nearer (limit 80 %; chance is 50 %): {meaning}"
    )
    # A gradient straight through rounding is told well at larger steps; only one that misleads falls below.
    level = _level(share < 0.8, share < 0.9)
    return Diagnostic(
        id="faithful-gradient",
        level=level,
        text=text,
        value=share,
        threshold=0.8,
        metrics=ROBUST_METRICS,
        flatters=True,  # an attack that is led astray finds too little
    )


def scores_respond(unmoved: int, n: int, by_labels: bool = False, unsaturated: bool = False) -> Diagnostic:
    """Attacks by scores climb them; hard or rounded ones tell them nothing until the label changes.

    ``by_labels`` says that one attacked that reads labels alone, often enough: to that it is all the same. So it is to
    gradients that were followed ``unsaturated``, on what goes into a softmax.
    """
    share = unmoved / n
    meaning = "attacks by scores have nothing to climb there" if share > 0.01 else "attacks by scores can climb them"
    if share > 0.01:
        meaning += "; one attacked that reads labels alone" if by_labels else ": add one that reads labels alone (rays)"
        meaning += "; gradients were followed on what goes into the softmax" if unsaturated else ""
    text = f"the margin stayed exactly as it was at {unmoved} of {n} images moved by eps ({share:.1%}): {meaning}"
    level = _level(share > 0.1 and not (by_labels or unsaturated), share > 0.01)
    return Diagnostic(
        id="scores-respond",
        level=level,
        text=text,
        value=share,
        threshold=0.1,
        metrics=ROBUST_METRICS,
        flatters=True,  # a query attack that has nothing to climb finds too little
    )


def _iterative_beats_single_step(outcomes: Outcomes) -> Diagnostic:
    name = "iterative-beats-single-step"
    single = [attack for attack in outcomes.attacks if attack.label == "fgsm"]
    iterative = [attack for attack in outcomes.attacks if attack.kind == "transfer" and attack.label != "fgsm"]
    # A warning alone: that iterations beat one step is a sanity check (Carlini et al.), and its lack hides no
    # robustness.
    if not single or not iterative:
        return Diagnostic(id=name, level="warn", text="not checked: it needs fgsm and an iterative gradient attack")
    stood = np.logical_and.reduce([outcomes.robust(attack, "board") for attack in iterative])
    only_single = stood & ~outcomes.robust(single[0], "board")
    bound = _bound(only_single)
    text = (
        f"one step broke {int(only_single.sum())} of {len(only_single)} images that all iterative attacks left alone "
        f"(99 % lower bound {bound:.2%}, limit 1 %)"
    )
    return Diagnostic(
        id=name,
        level=_level(bound > 0.01),
        text=text,
        value=bound,
        threshold=0.01,
        metrics=ROBUST_METRICS,
        flatters=True,  # an attack that could do better finds too little
    )


def _suspicious_gain(outcomes: Outcomes) -> Diagnostic:
    """Compare per image: deployment seldom makes a net more robust; more often it hides what the attack needs."""
    name = "suspicious-gain"
    transfers = [attack for attack in outcomes.attacks if attack.kind == "transfer"]
    if not transfers:
        return Diagnostic(id=name, level="warn", text="not checked: no transfer attack was run")
    board, host = (
        np.logical_and.reduce([outcomes.robust(attack, where) for attack in transfers]) for where in ("board", "host")
    )
    # Images that both nets resist say nothing about deployment; those that only the board resists do.
    bound = _bound(board & ~host)
    text = (
        f"{int((board & ~host).sum())} of {len(host)} images fool the exported net but not the board "
        f"(99 % lower bound {bound:.2%}, limit 2 %)"
    )
    return Diagnostic(
        id=name,
        level=_level(bound > 0.02),
        text=text,
        value=bound,
        threshold=0.02,
        metrics=ROBUST_METRICS,
        flatters=True,  # an attack that could do better finds too little
    )


def _agreement(outcomes: Outcomes, limit: float) -> Diagnostic:
    # Below this the robustness of one net says little about the other, whatever the attacks found.
    share = float((outcomes.board_clean == outcomes.host_clean).mean())
    text = f"board and host give the same label to {share:.2%} of the clean images (limit {100 * limit:g} %)"
    return Diagnostic(id="host-board-agreement", level=_level(share < limit), text=text, value=share, threshold=limit)


def _repeatable(outcomes: Outcomes, host: HostFindings | None) -> Diagnostic:
    """Count labels that hang on an image's neighbours or on chance, and name the layer that makes them do so."""
    moved = outcomes.moved + sum(attack.moved for attack in outcomes.attacks)
    restless = outcomes.restless + sum(attack.restless for attack in outcomes.attacks)
    judged = "one at a time" if outcomes.batch == 1 else f"in batches of {outcomes.batch}"
    text = (
        f"images were judged {judged}; {moved} labels changed when the board scored all of them again in batches of "
        f"{other_batch(outcomes.batch)}"
    )
    if moved:
        text += f", and {restless} of these changed in batches of the same size too"
    unsteady = None if host is None else host.unsteady
    if unsteady is not None:
        text += f"; of the exported net, torch says: {unsteady}"
    # Not one label may move: one that depends on its neighbours is no answer about its image.
    blocked = moved > 0 or unsteady is not None
    return Diagnostic(id="repeatable", level=_level(blocked), text=text, value=moved, threshold=0)


def _scores_not_probabilities(scores: Scores, unsaturated: bool) -> Diagnostic:
    # AutoAttack's test with its tolerance: outputs that are not negative and sum to one within 1e-5.
    probabilities = bool((scores >= 0).all() and np.abs(scores.sum(1) - 1).max() < 1e-5)
    text = "the board answers raw scores"
    if probabilities:
        followed = (
            "gradients were followed on what goes into its softmax, and scores-respond counts where they saturate"
        )
        fix = "whose saturation can blind score attacks: export the net without its softmax"
        text = f"the board's scores are probabilities{f'; {followed}' if unsaturated else f', {fix}'}"
    level = _level(False, probabilities and not unsaturated)
    return Diagnostic(id="raw-scores", level=level, text=text, value=float(probabilities), flatters=True)


def _falls_with_eps(curve: Sequence[Measurement], classes: int) -> Diagnostic:
    """Expect robustness to fall as eps grows, and to vanish in the end; otherwise the attack does not work."""
    # Two standard errors: neighbouring radii are measured on few images, and their noise is no fault of the attack.
    rises = any(
        after.value - before.value > 2 * (before.value * (1 - before.value) / before.n) ** 0.5
        for before, after in pairwise(curve)
    )
    # So far from an image that any net fails, a wrong gradient would not show.
    last = ([row for row in curve if float(row.conditions.get("multiple", 0)) <= CURVE_REACH[1]] or curve)[-1]
    # A net without any information still guesses right at this rate; two points are for uneven classes.
    limit = 1 / classes + 0.02
    eps = float(last.conditions["eps"])
    # The lower bound: on 50 images the value alone would be above the limit by chance too often.
    blocked = rises or (last.low or 0.0) > limit
    text = (
        f"under PGD-10 at eps {eps:.3g} an accuracy of {last.value:.1%} remains (limit {limit:.0%}, near chance); it "
        f"{'rises' if rises else 'never rises'} with eps"
        + (": the gradient attack does not work here" if blocked else "")
    )
    level = _level(blocked)
    return Diagnostic(id="falls-with-eps", level=level, text=text, value=last.value, threshold=limit, flatters=True)
