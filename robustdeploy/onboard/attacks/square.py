"""The Square attack: random search for one good square at a time, on scores alone, on the 8-bit grid.

Andriushchenko, Croce, Flammarion and Hein, "Square Attack: a query-efficient black-box adversarial attack via random
search", ECCV 2020: Algorithm 1 (search), Algorithms 2 and 3 (the proposals in ℓ∞ and ℓ2) and the schedule of section 3
for the share of pixels p. Written from the paper. In ℓ1 proposals are those of ℓ2 with their lengths in ℓ1, as in
Croce and Hein, "Mind the box" (ICML 2021). Every draw is a function of (key, image id, iteration), so an image's result
does not depend on which other images are attacked beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..bumps import moved_bump, tiled
from ..draws import Draws
from ..queries import ask_margins
from ..types import Bytes, Labels, Model, Needs, Threat

_HALVINGS = (10, 50, 200, 1000, 2000, 4000, 6000, 8000)
"""Iterations of 10,000 after which p is halved; rescaled to the number of queries."""


@dataclass(frozen=True)
class Square:
    """Random search over squares within a ball; in ℓ2 and ℓ1 each takes its length from another square."""

    NEEDS: ClassVar[Needs] = "scores"
    NORMS: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    queries: int = 1000
    """Most queries per image; the first asks for the vertical stripes."""
    p_init: float = 0.8
    """Share of the image that the first squares cover."""
    batch: int = 256
    """Images scored at once."""

    def __post_init__(self) -> None:
        if self.queries < 1 or self.batch < 1 or not 0 < self.p_init <= 1:
            raise ValueError("square needs queries ≥ 1, batch ≥ 1 and 0 < p_init ≤ 1")

    @property
    def label(self) -> str:
        """How reports name the attack."""
        return f"square-{self.queries}"

    def __call__(self, model: Model, images: Bytes, labels: Labels, threat: Threat, draws: Draws) -> Bytes:
        """Return the image of lowest margin found for each input within its queries, fooling or not."""
        # On the 8-bit grid: an image that fools only before it is rounded does not fool the deployed net.
        flat = threat.norm == "linf"
        low, high = threat.box(images)
        best = _stripes(low, high, draws) if flat else tiled(images, threat, draws)
        margins, fooled = ask_margins(model, best, labels, np.arange(len(images)), self.batch)
        # The stripes took the first query, so that the number in the label is what was really spent.
        for step in range(1, self.queries):
            # An image that is wrong already needs no more queries; what it saves shows in the queries per image.
            alive = np.flatnonzero(~fooled)
            if len(alive) == 0:
                break
            side = square_side(step, self.queries, self.p_init, images.shape[2], images.shape[3])
            few = draws.select(alive)
            proposal = (
                _propose(best[alive], low[alive], high[alive], side, few, step)
                if flat
                else moved_bump(images[alive], best[alive], threat, side, few, step)
            )
            margin, wrong = ask_margins(model, proposal, labels[alive], alive, self.batch)
            # Ties of scores are common in int8: a wrong class counts even where the margin has not fallen.
            better = wrong | (margin < margins[alive])
            best[alive[better]] = proposal[better]
            margins[alive[better]] = margin[better]
            fooled[alive] |= wrong
        return best


def square_side(step: int, queries: int, p_init: float, height: int, width: int) -> int:
    """Side in pixels of the square proposed at iteration ``step`` of ``queries``."""
    # The paper gives the schedule for 10,000 queries; with fewer the small squares would never be reached.
    at = step * 10000 // queries
    share = p_init / 2.0 ** sum(at > halving for halving in _HALVINGS)
    return max(1, min(round(math.sqrt(share * height * width)), height, width))


def _stripes(low: Bytes, high: Bytes, draws: Draws) -> Bytes:
    """Start on a corner of the box: every column of every channel wholly up or wholly down."""
    count, channels, _, width = low.shape
    up = draws.uniform(0, channels * width).reshape(count, channels, 1, width) < 0.5
    return np.where(up, high, low)


def _propose(best: Bytes, low: Bytes, high: Bytes, side: int, draws: Draws, step: int) -> Bytes:
    """Set one square per image, each channel wholly up or wholly down; never propose what is there already."""
    _, channels, height, width = best.shape
    # A fixed count of numbers for each image and step keeps its result free of which others are still under attack.
    random = draws.uniform(step, 2 + channels)
    tops = (random[:, 0] * (height - side + 1)).astype(np.int64)
    lefts = (random[:, 1] * (width - side + 1)).astype(np.int64)
    signs = random[:, 2:, None, None] < 0.5
    proposal = best.copy()
    for row, (top, left, up) in enumerate(zip(tops, lefts, signs, strict=True)):
        window = (row, slice(None), slice(top, top + side), slice(left, left + side))
        square = np.where(up, high[window], low[window])
        # That proposal would spend a query on an image whose score is known.
        if np.array_equal(square, best[window]):
            square = np.where(up, low[window], high[window])
        proposal[window] = square
    return proposal


plugin = Square
