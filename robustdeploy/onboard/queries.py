"""A model that counts its queries, in all and per image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from .types import Labels, Model, Pixels, Scores


class Counted:
    """``model``, counting every image it is asked for while ``count`` images are under attack."""

    def __init__(self, model: Model, count: int) -> None:
        self._model = model
        self._rows: npt.NDArray[np.int64] | None = None
        self.total = 0
        self._per_image: Labels = np.zeros(count, np.int64)

    def __call__(self, images: Pixels) -> Scores:
        """Score ``images`` and count them."""
        self.total += len(images)
        if self._rows is not None and len(self._rows) == len(images):
            # `+=` with an index array adds once per index, however often that occurs.
            np.add.at(self._per_image, self._rows, 1)
        return self._model(images)

    @property
    def per_image(self) -> Labels:
        """Queries spent on each image; all −1 where the attack did not say which image a query was for."""
        # An attack of a plug-in may call the model directly; then the sums differ and no count by image is claimed.
        known = int(self._per_image.sum()) == self.total
        return self._per_image if known else np.full_like(self._per_image, -1)

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
