"""SurFree: turns along circles that lead nearer wherever they are still wrong, in smooth directions; on labels alone.

Maho, Furon and Le Merrer, "SurFree: a fast surrogate-free black-box attack", CVPR 2021: Algorithm 1, in a subband of
cosines. Written from the paper. A point at angle θ on the circle through image and boundary point is nearer by cos θ.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from itertools import count
from typing import ClassVar

import numpy as np

from ..draws import Draws
from ..searches import (
    Answers,
    Limits,
    Place,
    Search,
    Values,
    at_length,
    begun,
    cosine,
    search,
    to_boundary,
    unit_length,
)
from ..types import Bytes, Labels, Model, Needs, Threat

_TRIED = (1, -1, 2 / 3, -2 / 3, 1 / 3, -1 / 3)
"""Shares of the widest angle that are tried, until one is wrong."""
_WIDEST = math.radians(30)
_CHANGE = 0.98
"""What the widest angle is multiplied by after a direction without success, and divided by after one with it."""
_HALVINGS = 6
_REMEMBERED = 100
"""Directions before that a new one is at a right angle to."""


@dataclass(frozen=True)
class Surfree:
    """A search over random planes through the image, without an estimate of any gradient."""

    NEEDS: ClassVar[Needs] = "labels"
    NORMS: ClassVar[tuple[str, ...]] = ("l2",)
    queries: int = 1000
    """Most queries per image; the first asks for the image itself."""
    band: float = 0.5
    """Share of the frequencies, the lowest ones, that directions are made of."""
    batch: int = 256
    """Images scored at once."""

    def __post_init__(self) -> None:
        Limits(self.queries, self.batch)
        if not 0 < self.band <= 1:
            raise ValueError("surfree needs a `band` above 0 and at most 1")

    @property
    def label(self) -> str:
        """How reports name the attack."""
        return f"surfree-{self.queries}"

    def __call__(self, model: Model, images: Bytes, labels: Labels, threat: Threat, draws: Draws) -> Bytes:
        """Return a wrong image inside the ball for each input, or the input where none was found."""
        return search(self._one, self.NEEDS, Limits(self.queries, self.batch), model, images, labels, threat, draws)

    def _one(self, place: Place) -> Search:
        yield place.image[None]
        dither, before = place.uniform(0), list[Values]()
        start, first = yield from begun(place, 1)
        way, radius = yield from to_boundary(place, start.astype(np.float64), dither, 1.0)
        widest = _WIDEST
        for step in count(first):
            across = self._direction(place, step, [way, *before])
            turn = _Turn(place, way, across, radius, dither)
            angle = yield from turn.widest(widest)
            if angle == 0:
                widest *= _CHANGE
                continue
            widest = min(_WIDEST, widest / _CHANGE)
            way, radius = turn.way(angle), turn.length(angle)
            before = [*before[1 - _REMEMBERED :], across]

    def _direction(self, place: Place, step: int, others: list[Values]) -> Values:
        """Return a random direction of length 1 in low frequencies, at a right angle to ``others``."""
        _, height, width = place.image.shape
        rows, columns = (
            np.array([cosine(each, size) for each in range(max(1, round(self.band * size)))])
            for size in (height, width)
        )
        drawn: Values = np.einsum("cij,ih,jw->chw", place.normal(step)[:, : len(rows), : len(columns)], rows, columns)
        for other in others:
            drawn = drawn - (drawn * other).sum() / np.square(other).sum() * other
        return drawn / unit_length(drawn)


@dataclass(frozen=True)
class _Turn:
    """Turns away from the way to a boundary point, in the plane of that and of another direction."""

    place: Place
    along: Values
    across: Values
    radius: float
    dither: Values

    def way(self, angle: float) -> Values:
        """Return the direction, of length 1, at an angle."""
        turned: Values = math.cos(angle) * self.along + math.sin(angle) * self.across
        return turned / unit_length(turned)

    def length(self, angle: float) -> float:
        """Return how far the circle is there; never less than the ball reaches, where any wrong image will do."""
        return max(self.radius * math.cos(angle), min(self.radius, self.place.threat.length))

    def widest(self, most: float) -> Generator[Bytes, Answers, float]:
        """Return the widest angle found that is wrong, on either side; 0 where none is."""
        for share in _TRIED:
            angle = share * most
            (wrong,) = yield self._at(angle)
            if wrong:
                return (yield from self._wider(angle))
        return 0.0

    def _wider(self, angle: float) -> Generator[Bytes, Answers, float]:
        near, far = angle, math.copysign(math.pi / 2, angle) if abs(angle) == _WIDEST else 1.5 * angle
        for _ in range(_HALVINGS):
            middle = (near + far) / 2
            (wrong,) = yield self._at(middle)
            near, far = (middle, far) if wrong else (near, middle)
        return near

    def _at(self, angle: float) -> Bytes:
        return at_length(self.place, self.way(angle), self.length(angle), self.dither)[None]


plugin = Surfree
