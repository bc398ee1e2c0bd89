"""Boundary attack: a random walk along the boundary, and a little towards the image with each step; on labels alone.

Brendel, Rauber and Bethge, "Decision-based adversarial attacks: reliable attacks against black-box machine learning
models", ICLR 2018: section 2, with its two step sizes. Written from the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import ClassVar

import numpy as np

from ..draws import Draws
from ..searches import Limits, Place, Search, at_length, begun, dithered, search, to_boundary, unit_length
from ..types import Bytes, Labels, Model, Needs, Threat

_CHANGE = 1.5
"""What a step size is multiplied or divided by."""
_LOOKED_BACK = 20
"""Steps after which sizes are looked at again."""
_MOST = 0.5
"""Largest step, as a share of the distance."""


@dataclass(frozen=True)
class Boundary:
    """Steps at equal distance in a random direction, then towards the image."""

    NEEDS: ClassVar[Needs] = "labels"
    NORMS: ClassVar[tuple[str, ...]] = ("l2",)
    queries: int = 1000
    """Most queries per image; the first asks for the image itself."""
    around: float = 0.1
    """First step at equal distance, as a share of it."""
    towards: float = 0.1
    """First step towards the image, as a share of the distance."""
    batch: int = 256
    """Images scored at once."""

    def __post_init__(self) -> None:
        Limits(self.queries, self.batch)
        if not (0 < self.around <= _MOST and 0 < self.towards <= _MOST):
            raise ValueError(f"boundary needs steps `around` and `towards` above 0 and at most {_MOST}")

    @property
    def label(self) -> str:
        """How reports name the attack."""
        return f"boundary-{self.queries}"

    def __call__(self, model: Model, images: Bytes, labels: Labels, threat: Threat, draws: Draws) -> Bytes:
        """Return a wrong image inside the ball for each input, or the input where none was found."""
        return search(self._one, self.NEEDS, Limits(self.queries, self.batch), model, images, labels, threat, draws)

    def _one(self, place: Place) -> Search:
        yield place.image[None]
        dither = place.uniform(0)
        start, first = yield from begun(place, 1)
        way, radius = yield from to_boundary(place, start.astype(np.float64), dither, 1.0)
        around, towards, passed = self.around, self.towards, []
        for step in count(first):
            drawn = place.normal(step)
            # Along the sphere around the image: what leads away from it or to it is left out.
            drawn -= (drawn * way).sum() * way
            moved = way + around * drawn / unit_length(drawn)
            turned = moved / unit_length(moved)
            (beside,) = yield dithered(place.image + radius * turned, dither)[None]
            nearer = False
            if beside:
                shorter = max(radius * (1 - towards), min(radius, place.threat.length))
                (nearer,) = yield at_length(place, turned, shorter, dither)[None]
                way, radius = turned, shorter if nearer else radius
            passed.append((bool(beside), bool(nearer)))
            if len(passed) == _LOOKED_BACK:
                # Half of the steps aside should succeed, as a boundary is about flat then; a quarter of those towards.
                aside = sum(wrong for wrong, _ in passed)
                around = min(_MOST, around * _CHANGE if 2 * aside > len(passed) else around / _CHANGE)
                if aside:
                    near = sum(wrong for _, wrong in passed)
                    towards = min(_MOST, towards * _CHANGE if 4 * near > aside else towards / _CHANGE)
                passed = []


plugin = Boundary
