"""Samples: test images before and after an attack, chosen by rules that are written beside them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from robustdeploy.core.report import Sample
from robustdeploy.evaluate.outcomes import AttackOutcome, Outcomes
from robustdeploy.evaluate.pictures import png
from robustdeploy.onboard.types import Bytes, Scores, Threat

SAMPLES = 12
"""Most samples of a report."""
_OF_A_RULE = 2
"""Most samples that the dense net, and that the smallest change, may give."""
_MOST_CHARACTERS = 450_000
"""Of all pictures together, so that a page of large images stays below a megabyte."""

Choice = tuple[int, AttackOutcome, str]
"""An image by its place, the attack on it, and why it was chosen."""


def samples_of(outcomes: Outcomes, threat: Threat, classes: tuple[str, ...]) -> Iterator[Sample]:
    """Return images that show what happened: each image once, and no more than a page can carry."""
    taken: set[int] = set()
    spent = 0
    for index, attack, why in _choices(outcomes, classes):
        if index in taken:
            continue
        made = _sample(outcomes, index, attack, why, threat, classes)
        spent += sum(len(png) for png in (made.clean_png, made.adversarial_png, made.difference_png))
        if len(taken) == SAMPLES or (taken and spent > _MOST_CHARACTERS):
            return
        taken.add(index)
        yield made


def _choices(outcomes: Outcomes, classes: tuple[str, ...]) -> Iterator[Choice]:
    """Yield the images that the rules choose, in the order of the rules; an image may come more than once."""
    if not outcomes.attacks:
        return
    fell, dense = _first_fall(outcomes), outcomes.dense_worst
    lost = [] if dense is None else [index for index in fell if dense[index]][:_OF_A_RULE]
    yield from ((i, fell[i], "the dense net stands under every attack, this one falls") for i in lost)
    nearest = sorted(fell.keys() - lost, key=lambda index: _length(outcomes, index, fell[index]))
    yield from ((i, fell[i], "among the smallest changes that fool it") for i in nearest[:_OF_A_RULE])
    for number, name in enumerate(classes):
        its = [int(i) for i in np.flatnonzero(outcomes.labels == number)]
        if broken := [i for i in its if i in fell]:
            yield broken[0], fell[broken[0]], f"the first image of class {name} that fell"
        elif stood := [i for i in its if outcomes.clean("board")[i]]:
            yield stood[0], outcomes.attacks[-1], f"no attack broke an image of class {name}; this is the first one"


def _first_fall(outcomes: Outcomes) -> dict[int, AttackOutcome]:
    """Return the images that were right and fell, each with the first attack that broke it, in the order of images."""
    found: dict[int, AttackOutcome] = {}
    for attack in outcomes.attacks:
        broken = outcomes.before(attack, "board") & (attack.board != outcomes.labels)
        found = {**{int(i): attack for i in np.flatnonzero(broken)}, **found}
    return dict(sorted(found.items()))


def _length(outcomes: Outcomes, index: int, attack: AttackOutcome) -> float:
    return float(np.linalg.norm(_change(outcomes.images[index], attack.images[index]))) / 255


def _change(clean: Bytes, adversarial: Bytes) -> npt.NDArray[np.float32]:
    return adversarial.astype(np.float32) - clean.astype(np.float32)


def _sample(
    outcomes: Outcomes, index: int, attack: AttackOutcome, why: str, threat: Threat, classes: tuple[str, ...]
) -> Sample:
    clean, adversarial = outcomes.images[index], attack.images[index]
    return Sample(
        attack=attack.label,
        label=classes[int(outcomes.labels[index])],
        clean_prediction=classes[int(outcomes.board_clean[index])],
        adversarial_prediction=classes[int(attack.board[index])],
        clean_png=png(clean),
        adversarial_png=png(adversarial),
        difference_png=png(_difference(clean, adversarial, threat)),
        why=why,
        change=_length(outcomes, index, attack),
        clean_scores=_scores(outcomes.scores, index),
        adversarial_scores=_scores(attack.scores, index),
    )


def _scores(scores: Scores | None, index: int) -> tuple[float, float] | None:
    return None if scores is None else (float(scores[index, 0]), float(scores[index, 1]))


def _difference(clean: Bytes, adversarial: Bytes, threat: Threat) -> Bytes:
    """Scale the perturbation so that ±eps, in ℓ2 and ℓ1 its largest change, spans black to white around mid-grey."""
    change = _change(clean, adversarial)
    largest = threat.levels if threat.norm == "linf" else max(1.0, float(np.abs(change).max()))
    # Drawn as it is, a change of eight levels cannot be seen.
    grey: Bytes = np.clip(127.5 + change * (127.5 / largest), 0, 255).round().astype(np.uint8)
    return grey
