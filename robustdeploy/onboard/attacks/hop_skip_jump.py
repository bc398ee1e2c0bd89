"""HopSkipJump: walk along the boundary by directions that labels of random probes tell; on labels alone.

Chen, Jordan and Wainwright, "HopSkipJumpAttack: a query-efficient decision-based attack", IEEE S&P 2020: both forms of
Algorithm 2, in ℓ∞ and ℓ2. The t-th estimate takes B₀√t probes, less their mean; the step ξ = distance/√t is halved
until it is wrong. Written from the paper. Its probes are far finer than a grey level. On the 8-bit grid they move every
pixel by one level, and dithering finds the boundary as finely.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
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
    asked,
    at_length,
    begun,
    dithered,
    search,
    to_boundary,
    unit_length,
)
from ..types import Bytes, Labels, Model, Needs, Threat


@dataclass(frozen=True)
class HopSkipJump:
    """Descent of the distance along the boundary."""

    NEEDS: ClassVar[Needs] = "labels"
    NORMS: ClassVar[tuple[str, ...]] = ("linf", "l2")
    queries: int = 1000
    """Most queries per image; the first asks for the image itself."""
    probes: int = 100
    """Probes of the first estimate; the t-th takes √t times as many."""
    batch: int = 256
    """Images scored at once."""

    def __post_init__(self) -> None:
        Limits(self.queries, self.batch)
        if self.probes < 2:
            raise ValueError("hop-skip-jump needs probes ≥ 2")

    @property
    def label(self) -> str:
        """How reports name the attack."""
        return f"hop-skip-jump-{self.queries}"

    def __call__(self, model: Model, images: Bytes, labels: Labels, threat: Threat, draws: Draws) -> Bytes:
        """Return a wrong image inside the box for each input, or the input where none was found."""
        one = self._in_l2 if threat.norm == "l2" else self._one
        return search(one, self.NEEDS, Limits(self.queries, self.batch), model, images, labels, threat, draws)

    def _one(self, place: Place) -> Search:
        yield place.image[None]
        drawn = count()
        dither, wrong = place.uniform(next(drawn)), False
        while not wrong:
            point = np.floor(256 * place.uniform(next(drawn))).astype(np.uint8)
            (wrong,) = yield point[None]
        for step in count(1):
            point, radius = yield from _to_boundary(place, point, dither)
            direction = np.sign((yield from self._slope(place, point, step, drawn)))
            size = radius / step**0.5
            # A step below half a level would change nothing.
            while size >= 0.5:
                moved = np.clip(np.rint(point + size * direction), 0, 255).astype(np.uint8)
                (wrong,) = yield moved[None]
                if wrong:
                    point = moved
                    break
                size /= 2

    def _in_l2(self, place: Place) -> Search:
        yield place.image[None]
        dither = place.uniform(0)
        wrong, first = yield from begun(place, 1)
        drawn, point = count(first), wrong.astype(np.float64)
        for step in count(1):
            # A tenth of how far a probe moves: it decides, and not where exactly the boundary was met.
            way, radius = yield from to_boundary(place, point, dither, place.image.size**0.5 / 10)
            met = at_length(place, way, radius, dither)
            slope = yield from self._slope(place, met, step, drawn)
            direction, size = slope / unit_length(slope), radius / step**0.5
            point = place.image + radius * way
            # A step that moves no pixel by half a level would change nothing.
            while size * np.abs(direction).max() >= 0.5:
                moved = np.clip(point + size * direction, 0, 255)
                (wrong,) = yield dithered(moved, dither)[None]
                if wrong:
                    point = moved
                    break
                size /= 2

    def _slope(self, place: Place, point: Bytes, step: int, drawn: Iterator[int]) -> Generator[Bytes, Answers, Values]:
        """Return the estimated direction from ``point`` on the boundary into what is wrong."""
        ups = np.array([place.uniform(next(drawn)) < 0.5 for _ in range(int(self.probes * step**0.5))])
        tried = np.clip(point + np.where(ups, 1.0, -1.0), 0, 255).astype(np.uint8)
        answers = yield from asked(tried)
        signs = np.where(answers, 1.0, -1.0)
        # Less their mean, the answers vary less; where all are alike that would leave nothing.
        signs -= 0 if abs(signs.mean()) == 1 else signs.mean()
        slope: Values = np.tensordot(signs, tried.astype(np.float64) - point, 1)
        return slope


def _to_boundary(place: Place, far: Bytes, dither: Values) -> Generator[Bytes, Answers, tuple[Bytes, float]]:
    """Pull the wrong image ``far`` towards the box by cutting its largest moves; return what is wrong still."""
    moves = far.astype(np.float64) - place.image

    def at(radius: float) -> Bytes:
        return dithered(np.clip(moves, -radius, radius) + place.image, dither)

    # An image that is wrong inside the box has done its work, and the search ends there.
    near, radius = float(place.levels), float(np.abs(moves).max())
    yield at(near)[None]
    # A probe's random signs change the margin about as much as one √size-th of that many levels all in one direction.
    while radius - near > place.image.size**-0.5:
        middle = (near + radius) / 2
        (wrong,) = yield at(middle)[None]
        near, radius = (near, middle) if wrong else (middle, radius)
    return at(radius), radius


plugin = HopSkipJump
