"""NES: signed steps along a gradient that is estimated from pairs of opposite moves; on scores.

Ilyas, Engstrom, Athalye and Lin, "Black-box adversarial attacks with limited queries and information", ICML 2018: the
query-limited attack of section 2.2, with momentum. Written from the paper. The loss here is the margin, which does not
saturate. What is asked for lies inside the box and is 8 bits, so a move is of whole levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import ClassVar

import numpy as np

from ..draws import Draws
from ..searches import Limits, Place, Search, asked, search
from ..types import Bytes, Labels, Model, Needs, Threat


@dataclass(frozen=True)
class Nes:
    """Projected gradient descent on the margin, by estimated gradients."""

    NEEDS: ClassVar[Needs] = "scores"
    queries: int = 1000
    """Most queries per image; the first asks for the image itself."""
    pairs: int = 10
    """Pairs of opposite moves for each gradient."""
    spread: float = 0.5
    """Standard deviation of a move, as a share of eps; at least one grey level."""
    alpha: float = 0.25
    """Step size, as a share of eps; at least one grey level."""
    decay: float = 0.9
    """Share of the gradients before that a step keeps."""
    batch: int = 256
    """Images scored at once."""

    def __post_init__(self) -> None:
        Limits(self.queries, self.batch)
        if self.pairs < 1 or self.spread <= 0 or self.alpha <= 0 or not 0 <= self.decay < 1:
            raise ValueError("nes needs pairs ≥ 1, spread > 0, alpha > 0 and 0 ≤ decay < 1")

    @property
    def label(self) -> str:
        """How reports name the attack."""
        return f"nes-{self.queries}"

    def __call__(self, model: Model, images: Bytes, labels: Labels, threat: Threat, draws: Draws) -> Bytes:
        """Return the image of lowest margin found for each input within its queries, fooling or not."""
        return search(self._one, self.NEEDS, Limits(self.queries, self.batch), model, images, labels, threat, draws)

    def _one(self, place: Place) -> Search:
        spread, alpha = (max(1.0, share * place.levels) for share in (self.spread, self.alpha))
        image, gradient = place.image.astype(np.float64), np.zeros(place.image.shape)
        yield place.image[None]
        for step in count():
            moves = [np.rint(spread * place.normal(step * self.pairs + pair)) for pair in range(self.pairs)]
            tried = np.array([image + sign * move for move in moves for sign in (1, -1)])
            # Inside the box, so that what happens to fool counts; the estimate uses the moves that were really made.
            tried = np.clip(np.rint(tried), place.low, place.high).astype(np.uint8)
            margins = yield from asked(tried)
            slopes, made = margins[::2] - margins[1::2], tried[::2].astype(np.float64) - tried[1::2]
            estimate = np.tensordot(slopes, made, 1)
            gradient = self.decay * gradient + (1 - self.decay) * estimate
            image = np.clip(image - alpha * np.sign(gradient), place.low, place.high)
            yield np.rint(image).astype(np.uint8)[None]


plugin = Nes
