"""Answers: which class a subject gave to the images of each class, as they are and under all attacks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robustdeploy.core.figures import Answers, Cell
from robustdeploy.evaluate.outcomes import Bits, Outcomes
from robustdeploy.onboard.types import Labels


def answers_of(outcomes: Outcomes, classes: tuple[str, ...]) -> Answers:
    """Return the answers of what runs on the board."""
    tried = [(attack.board, attack.right("board", outcomes.labels)) for attack in outcomes.attacks]
    return _answers(outcomes.labels, outcomes.board_clean, tried, classes)


def dense_answers(outcomes: Outcomes, classes: tuple[str, ...]) -> Answers | None:
    """Return those of the dense net in torch; None where it was not attacked."""
    if outcomes.dense_clean is None:
        return None
    tried = [(attack.host, attack.right("host", outcomes.labels)) for attack in outcomes.dense_attacks]
    return _answers(outcomes.labels, outcomes.dense_clean, tried, classes)


def _answers(labels: Labels, clean: Labels, tried: Sequence[tuple[Labels, Bits]], classes: tuple[str, ...]) -> Answers:
    worst = clean.copy()
    for answers, right in tried:
        # Only what still stands can fall. An attack that mends a wrong image mends nothing.
        fell = (worst == labels) & ~right
        worst[fell] = answers[fell]
    return Answers(classes=classes, clean=_cells(labels, clean), worst=_cells(labels, worst))


def _cells(labels: Labels, answers: Labels) -> tuple[Cell, ...]:
    pairs, counts = np.unique(np.stack([labels, answers]), axis=1, return_counts=True)
    return tuple((int(a), int(b), int(n)) for (a, b), n in zip(pairs.T, counts, strict=True))
