"""Searches: the attacks of many images, one generator for each, whose queries are asked together.

An attack is written for one image: it yields images to ask for and is sent the answers. What is found for an image then
cannot depend on which others are attacked beside it, and no image waits for another.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from .ball import outside, rounded
from .draws import Draws
from .queries import ask_margins
from .types import Bytes, Labels, Model, Needs, Threat

Answers = npt.NDArray[Any]
"""One number per image that was asked for: its margin, or for an attack by labels whether it is wrong."""
Search = Generator[Bytes, Answers, None]
"""Yields images N×C×H×W, inside the ball or not, and is sent what the model answers to each.

It ends where it has nothing more to ask, and is ended at the first image inside the ball that is wrong."""
Values = npt.NDArray[np.float64]

PIECE = 8
"""Images of one search that are asked for at once: more would be paid for after the first of them has fooled."""


@dataclass(frozen=True)
class Place:
    """One image under attack."""

    image: Bytes
    """C×H×W, as is all below."""
    low: Bytes
    """Lowest value that each pixel may take."""
    high: Bytes
    threat: Threat
    draws: Draws
    """Random numbers of this image."""

    @property
    def levels(self) -> int:
        """The most grey levels that a pixel may move."""
        return self.threat.levels

    def uniform(self, step: int) -> Values:
        """Return a number in [0, 1) for each pixel."""
        return self.draws.uniform(step, self.image.size).reshape(self.image.shape)

    def normal(self, step: int) -> Values:
        """Return a normal number for each pixel."""
        return self.draws.normal(step, self.image.size).reshape(self.image.shape)


@dataclass(frozen=True)
class Limits:
    """What an attack may spend."""

    queries: int
    """Most queries per image."""
    batch: int
    """Images scored at once."""

    def __post_init__(self) -> None:
        if self.queries < 1 or self.batch < 1:
            raise ValueError("a query attack needs queries ≥ 1 and batch ≥ 1")


def search(
    start: Callable[[Place], Search],
    needs: Needs,
    limits: Limits,
    model: Model,
    images: Bytes,
    labels: Labels,
    threat: Threat,
    draws: Draws,
) -> Bytes:
    """Return for each image the first one inside the ball that is wrong, within the queries that it may spend.

    Where there is none it is the one of lowest margin; an attack by labels knows none, and the image stays as it is.
    """
    low, high = threat.box(images)
    found, lowest, left = images.copy(), np.full(len(images), np.inf), np.full(len(images), limits.queries)
    waiting: dict[int, tuple[Search, Bytes]] = {}
    for row in range(len(images)):
        one = start(Place(images[row], low[row], high[row], threat, draws.select(np.array([row]))))
        waiting[row] = one, next(one)
    while waiting:
        tried = {row: wanted[: left[row]] for row, (_, wanted) in waiting.items()}
        rows = np.repeat(list(tried), [len(images) for images in tried.values()])
        margins, wrong = ask_margins(model, np.concatenate(list(tried.values())), labels[rows], rows, limits.batch)
        # Labels alone do not tell which of two images is nearer to the border.
        worth = np.where(wrong, -np.inf, np.inf if needs == "labels" else margins)
        answers = wrong if needs == "labels" else margins
        before, waiting = waiting, {}
        for row, its in tried.items():
            part = rows == row
            inside = ~outside(np.broadcast_to(images[row], its.shape), its, threat)
            best = int(np.where(inside, worth[part], np.inf).argmin())
            if inside[best] and worth[part][best] < lowest[row]:
                found[row], lowest[row] = its[best], worth[part][best]
            left[row] -= len(its)
            if lowest[row] == -np.inf or left[row] == 0:
                continue
            with suppress(StopIteration):
                waiting[row] = before[row][0], before[row][0].send(answers[part])
    return found


def asked(images: Bytes) -> Generator[Bytes, Answers, Answers]:
    """Ask for many images, a few at a time; for use with ``yield from`` in a search."""
    parts = []
    for start in range(0, len(images), PIECE):
        parts.append((yield images[start : start + PIECE]))
    return np.concatenate(parts)


def dithered(values: Values, dither: Values) -> Bytes:
    """Round ``values`` in grey levels to 8 bits, up where their fraction is above 1 less ``dither`` in [0, 1).

    With one field of random thresholds a move by a tenth of a level changes a tenth of the pixels: so a search can go
    on in steps that are smaller than a level.
    """
    rounded: Bytes = np.clip(np.floor(values + dither), 0, 255).astype(np.uint8)
    return rounded


def begun(place: Place, first: int) -> Generator[Bytes, Answers, tuple[Bytes, int]]:
    """Ask for images of noise until one is wrong; return it and the next step of draws, of which ``first`` is free."""
    for step in count(first):
        point = np.floor(256 * place.uniform(step)).astype(np.uint8)
        (wrong,) = yield point[None]
        if wrong:
            return point, step + 1
    raise AssertionError("count never ends")


def at_length(place: Place, way: Values, length: float, dither: Values) -> Bytes:
    """Return the image at ``length`` grey levels in ℓ2 along ``way``; within the ball's radius it is inside."""
    there = place.image + length * way
    if length <= place.threat.length:
        inside: Bytes = rounded(place.image[None], there[None], place.threat)[0]
        return inside
    return dithered(there, dither)


def to_boundary(
    place: Place, point: Values, dither: Values, tolerance: float
) -> Generator[Bytes, Answers, tuple[Values, float]]:
    """Go from the wrong ``point`` straight towards the image; return the way and how far on it what is wrong lies.

    The ball's border is asked for first: a wrong image there ends the search.
    """
    moves = point - place.image
    far = unit_length(moves)
    way, near = moves / far, min(place.threat.length, far)
    yield at_length(place, way, near, dither)[None]
    while far - near > tolerance:
        middle = (near + far) / 2
        (wrong,) = yield at_length(place, way, middle, dither)[None]
        near, far = (near, middle) if wrong else (middle, far)
    return way, far


def unit_length(moves: Values) -> float:
    """Return the ℓ2 length of a move, or a next to nothing that can be divided by."""
    return max(float(np.sqrt(np.square(moves).sum())), 1e-12)


def cosine(frequency: int, length: int) -> Values:
    """Return one row of the cosine transform (DCT-II)."""
    row: Values = np.cos(np.pi * frequency * (2 * np.arange(length) + 1) / (2 * length))
    return row
