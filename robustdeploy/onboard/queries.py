"""A model that counts its queries, in all and per image, and their time; and what an attack may ask it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from .criterion import CLASSIFICATION, Floats
from .types import Bytes, Labels, Model, Pixels, Scores, pixels_from_bytes

MARKS = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
"""Queries per image up to which time is told; no attack may spend more than the last."""


class Counted:
    """``model``, counting every image it is asked for while ``count`` images are under attack, and timing the calls.

    ``clock`` gives nanoseconds: of this process, or what the engine has taken in all where it runs in another one.
    """

    def __init__(self, model: Model, count: int, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._model = model
        self._clock = clock
        self._rows: npt.NDArray[np.int64] | None = None
        self.total = 0
        self._per_image: Labels = np.zeros(count, np.int64)
        self._spent_ns = np.zeros((count, len(MARKS)))

    def __call__(self, images: Pixels) -> Scores:
        """Score ``images``, count them and charge each with its share of the call's time."""
        self.total += len(images)
        began = self._clock()
        scores = self._model(images)
        took_ns = self._clock() - began
        if self._rows is not None and len(self._rows) == len(images) > 0:
            self._charge(np.sort(self._rows), took_ns / len(images))
        return scores

    def _charge(self, rows: npt.NDArray[np.int64], share_ns: float) -> None:
        each, first, counts = np.unique(rows, return_index=True, return_counts=True)
        # A call may hold several queries for one image, and each has a number of its own.
        numbers = self._per_image[rows] + np.arange(len(rows)) - np.repeat(first, counts)
        np.add.at(self._spent_ns, rows, share_ns * (numbers[:, None] < MARKS))
        self._per_image[each] += counts

    @property
    def per_image(self) -> Labels:
        """Queries spent on each image; all −1 where the attack did not say which image a query was for."""
        # An attack of a plug-in may call the model directly; then the sums differ and no count by image is claimed.
        return self._per_image if self._known else np.full_like(self._per_image, -1)

    @property
    def spent_ns(self) -> Labels:
        """Nanoseconds that the model took for each image's first `MARKS` queries, N×marks; all −1 as above."""
        spent = np.rint(self._spent_ns).astype(np.int64)
        return spent if self._known else np.full_like(spent, -1)

    @property
    def _known(self) -> bool:
        return int(self._per_image.sum()) == self.total

    @contextmanager
    def asking(self, rows: npt.NDArray[np.int64]) -> Iterator[None]:
        """Charge the queries inside the block to the images at ``rows``."""
        self._rows = rows
        try:
            yield
        finally:
            self._rows = None


def ask(model: Model, images: Pixels, rows: npt.NDArray[np.int64]) -> Scores:
    """Score ``images`` and, where ``model`` counts, charge them to the attacked images at ``rows``."""
    if isinstance(model, Counted):
        with model.asking(rows):
            return model(images)
    return model(images)


def ask_margins(
    model: Model, images: Bytes, labels: Labels, rows: npt.NDArray[np.int64], batch: int
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return each image's margin (low is near the border) and whether its label is no longer the prediction.

    ``batch`` images are scored at once, and each is charged to the attacked image at its place in ``rows``.
    """
    margins, wrong = np.empty(len(images)), np.empty(len(images), np.bool_)
    for start in range(0, len(images), batch):
        part = slice(start, start + batch)
        scores = ask(model, pixels_from_bytes(images[part]), rows[part])
        margins[part] = CLASSIFICATION.margin(scores, labels[part])
        wrong[part] = ~CLASSIFICATION.right(scores, labels[part])
    return margins, wrong
