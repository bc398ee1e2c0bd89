"""RayS: flip blocks of a ray's signs where that brings the boundary nearer; on labels alone.

Chen and Gu, "RayS: a ray searching method for hard-label adversarial attack", KDD 2020: the hierarchical search, with
its quick check before a bisection. Written from the paper. It has no gradient, no loss and no start. A ray is followed
on the 8-bit grid by dithering, in fractions of a level.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..draws import Draws
from ..searches import Answers, Limits, Place, Search, Values, dithered, search
from ..types import Bytes, Labels, Model, Needs, Threat

_FARTHEST = 255.0


@dataclass(frozen=True)
class Rays:
    """Search over the signs of a ray for the nearest boundary in ℓ∞."""

    NEEDS: ClassVar[Needs] = "labels"
    queries: int = 1000
    """Most queries per image; the first asks for the image itself."""
    batch: int = 256
    """Images scored at once."""

    def __post_init__(self) -> None:
        Limits(self.queries, self.batch)

    @property
    def label(self) -> str:
        """How reports name the attack."""
        return f"rays-{self.queries}"

    def __call__(self, model: Model, images: Bytes, labels: Labels, threat: Threat, draws: Draws) -> Bytes:
        """Return a wrong image inside the box for each input, or the input where none was found."""
        return search(self._one, self.NEEDS, Limits(self.queries, self.batch), model, images, labels, threat, draws)

    def _one(self, place: Place) -> Search:
        yield place.image[None]
        dither, size = place.uniform(0), place.image.size
        signs = np.ones(size)
        radius = yield from _nearer(place, signs, _FARTHEST, dither)
        blocks = 1
        while True:
            for block in np.array_split(np.arange(size), min(blocks, size)):
                flipped = signs.copy()
                flipped[block] *= -1
                nearer = yield from _nearer(place, flipped, radius, dither)
                # Until a ray is wrong, one is as good as another.
                if nearer < radius or radius == _FARTHEST:
                    signs, radius = flipped, nearer
            # Once the blocks are single pixels they are gone through again: other flips have changed their worth.
            blocks *= 2


def _nearer(place: Place, signs: Values, radius: float, dither: Values) -> Generator[Bytes, Answers, float]:
    """Return how far the boundary is along a ray where it is nearer than ``radius``, else ``radius``."""

    def at(radius: float) -> Bytes:
        return dithered(place.image + radius * signs.reshape(place.image.shape), dither)[None]

    # What is wrong within the box ends the search, so the boundary is looked for beyond it.
    box, step = float(place.levels), place.image.size**-0.5
    near = max(box, radius - step)
    # One query says whether the ray is worth more of them. Few are much better than the last: the bracket is doubled.
    while True:
        (wrong,) = yield at(near)
        if not wrong:
            break
        radius, step = near, 2 * step
        near = max(box, near - step)
    while radius - near > max(step / 8, place.image.size**-0.5):
        (wrong,) = yield at(middle := (near + radius) / 2)
        near, radius = (near, middle) if wrong else (middle, radius)
    return radius


plugin = Rays
