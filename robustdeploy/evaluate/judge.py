"""Judge: what a board answers to images as it is used, one at a time or in its target's batch; and once more to see.

Labels that count come from the first pass. The second is in batches of another size: a label that changes there says
that the answer depends on an image's neighbours, or on chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robustdeploy.devices.board import Board
from robustdeploy.evaluate.outcomes import Bits
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.types import Bytes, Labels, Scores

# No multiple of anything usual: kernels and caches for round batch sizes do not fit it.
OTHER_BATCH = 37
"""The second pass of what is judged one at a time."""
ROUNDING = 1e-3
"""Kernels for batches of other sizes round otherwise: up to this share of the largest score a near-tie may flip."""


@dataclass(frozen=True)
class Judged:
    """The scores of images, and which of their labels did not hold."""

    scores: Scores
    moved: Bits
    """Labels that were others in batches of another size, by more than rounding explains."""
    restless: Bits
    """Those of them that were others again in batches of the same size, so by chance."""

    @property
    def labels(self) -> Labels:
        """The class of the highest score of each image."""
        best: Labels = CLASSIFICATION.predictions(self.scores)
        return best


def judge(board: Board, images: Bytes, batch: int) -> Judged:
    """Score ``images`` in batches of ``batch``, then again in others."""
    scores = board.score(images, batch)
    moved = _moved(scores, board.score(images, other_batch(batch)))
    restless = np.zeros_like(moved)
    if moved.any():
        # Only then a third pass: it tells chance from dependence on the neighbours and costs as much as the first.
        restless = moved & _moved(scores, board.score(images, batch))
    return Judged(scores, moved, restless)


def other_batch(batch: int) -> int:
    """Size of the batches of the second pass."""
    # Alone no image has neighbours, which is the clearest contrast to any batch.
    return OTHER_BATCH if batch == 1 else 1


def _moved(ours: Scores, theirs: Scores) -> Bits:
    """Tell which labels differ, near-ties aside: there the two classes' scores are apart by rounding alone."""
    rows = np.arange(len(ours))
    there, here = CLASSIFICATION.predictions(theirs), CLASSIFICATION.predictions(ours)
    leads = ours.max(1) - ours[rows, there], theirs.max(1) - theirs[rows, here]
    # Both leads: a label that flips at a near-tie leads by next to nothing on either side.
    moved: Bits = np.maximum(*leads) > ROUNDING * max(np.abs(ours).max(), np.abs(theirs).max())
    return moved
