"""Elastic transform: stretches and pulls parts of an image (Simard et al. 2003; Hendrycks and Dietterich 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from robustdeploy.core.bounds import Severity
from robustdeploy.data.corruptions.protocol import Floats, Table, is_small
from robustdeploy.onboard.draws import Draws

_ITS_SIDE = 244
"""Pixels that the published parameters of large images are shares of; 224 was meant."""
_AS_MADE = 224


@dataclass(frozen=True)
class ElasticTransform:
    """Moves three points of an image and all else with them, then every pixel by a smooth field of its own.

    Parameters are shares of an image's side: the published ones are for images of one size.
    """

    severities: tuple[Severity, ...] = (1, 2, 3, 4, 5)

    SMALL: ClassVar[Table] = {
        "pull": (0, 0.05, 0.08, 0.1, 0.1),
        "smooth": (0, 0.2, 0.06, 0.04, 0.03),
        "affine": (0.08, 0.07, 0.06, 0.05, 0.03),
    }
    LARGE: ClassVar[Table] = {
        "pull": (2, 2, 0.05, 0.07, 0.12),
        "smooth": (0.7, 0.08, 0.01, 0.01, 0.01),
        "affine": (0.1, 0.2, 0.02, 0.02, 0.02),
    }

    def __call__(self, images: Floats, draws: Draws, *, pull: float, smooth: float, affine: float) -> Floats:
        """Return images whose points moved by up to ``affine``, and pixels by ``pull`` times noise over ``smooth``."""
        from scipy.ndimage import gaussian_filter, map_coordinates

        (count, _, height, width), side = images.shape, float(min(images.shape[2:]))
        side *= 1 if is_small(images.shape[1:]) else _ITS_SIDE / _AS_MADE
        rows, columns = np.mgrid[:height, :width].astype(np.float64)
        fields = np.zeros((count, 2, height, width))
        if pull:
            noise = 2 * draws.uniform(0, 2 * height * width).reshape(fields.shape) - 1
            reach = (0, 0, smooth * side, smooth * side)
            fields = pull * side * gaussian_filter(noise, reach, mode="reflect", truncate=3)
        backward = _backward(height, width, affine * side * (2 * draws.uniform(1, 6).reshape(count, 3, 2) - 1))
        made = np.empty_like(images)
        for number, (matrix, shift) in enumerate(backward):
            from_rows, from_columns = (m[0] * rows + m[1] * columns + s for m, s in zip(matrix, shift, strict=True))
            moved = rows + fields[number, 1], columns + fields[number, 0]
            for channel, plane in enumerate(images[number]):
                warped = map_coordinates(plane, (from_rows, from_columns), order=1, mode="mirror")
                made[number, channel] = map_coordinates(warped, moved, order=1, mode="reflect")
        return made


def _backward(height: int, width: int, moves: Floats) -> list[tuple[Floats, Floats]]:
    """Return for each image the affine map from a new place to the old one, as a matrix and a shift of (row, column).

    ``moves`` (N×3×2) says by how much three points around the middle move.
    """
    middle, reach = np.array([height // 2, width // 2], np.float64), min(height, width) // 3
    points = np.stack([middle + reach, middle + np.array([-reach, reach]), middle - reach])
    maps = []
    for move in moves:
        new = np.column_stack([points + move, np.ones(3)])
        solved = np.linalg.solve(new, points)
        maps.append((solved[:2].T, solved[2]))
    return maps


plugin = ElasticTransform
