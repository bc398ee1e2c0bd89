"""SimBA: one direction of a fixed basis at a time, kept where the margin falls; on scores.

Guo, Gardner, You, Wilson and Weinberger, "Simple black-box adversarial attacks", ICML 2019: Algorithm 1, along pixels
or cosines (section 3.2). Written from the paper, which bounds ℓ2. In the ℓ∞ box a step moves the largest pixel of its
direction by eps. What leaves the box is cut off, and all of it is rounded to 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import ClassVar, Literal

import numpy as np

from ..draws import Draws
from ..searches import Limits, Place, Search, Values, cosine, search
from ..types import Bytes, Labels, Model, Needs, Threat

_BANDS = 8
"""Bands of frequencies: the lowest eighth comes first, as in the paper, then the next, each in random order."""


@dataclass(frozen=True)
class Simba:
    """Coordinate search within an ℓ∞ box, in pixels or cosines."""

    NEEDS: ClassVar[Needs] = "scores"
    queries: int = 1000
    """Most queries per image; the first asks for the image itself."""
    basis: Literal["dct", "pixel"] = "dct"
    """Directions: cosines over a whole channel, or single pixels."""
    batch: int = 256
    """Images scored at once."""

    def __post_init__(self) -> None:
        Limits(self.queries, self.batch)
        if self.basis not in ("dct", "pixel"):
            raise ValueError(f"simba searches along `basis: dct` or `basis: pixel`, not {self.basis!r}")

    @property
    def label(self) -> str:
        """How reports name the attack."""
        return f"simba-{self.queries}" + ("" if self.basis == "dct" else "-pixel")

    def __call__(self, model: Model, images: Bytes, labels: Labels, threat: Threat, draws: Draws) -> Bytes:
        """Return the image of lowest margin found for each input within its queries, fooling or not."""
        return search(self._one, self.NEEDS, Limits(self.queries, self.batch), model, images, labels, threat, draws)

    def _one(self, place: Place) -> Search:
        (margin,) = yield place.image[None]
        change = np.zeros(place.image.shape)
        for turn in count():
            before = margin
            for direction in self._directions(place, turn):
                for sign in (1, -1):
                    moved = np.clip(change + sign * place.levels * direction, -place.levels, place.levels)
                    tried = np.clip(np.rint(place.image + moved), place.low, place.high).astype(np.uint8)
                    (found,) = yield tried[None]
                    if found < margin:
                        change, margin = moved, found
                        break
            # The paper tries each direction once. A later turn may find more, since the box has bent the earlier steps.
            if margin == before:
                return

    def _directions(self, place: Place, turn: int) -> Iterator[Values]:
        """Yield every direction of the basis once, in the order of this turn; the largest pixel of each is 1."""
        _, height, width = shape = place.image.shape
        order = place.uniform(turn)
        if self.basis == "dct":
            across, down = np.arange(width) / width, np.arange(height)[:, None] / height
            order = order + np.floor(_BANDS * np.maximum(across, down))
        for index in np.argsort(order, axis=None):
            channel, row, column = np.unravel_index(index, shape)
            direction = np.zeros(shape)
            if self.basis == "dct":
                direction[channel] = np.outer(cosine(int(row), height), cosine(int(column), width))
                direction /= np.abs(direction).max()
            else:
                direction[channel, row, column] = 1
            yield direction


plugin = Simba
