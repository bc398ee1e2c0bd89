"""Glass blur: frosted glass moves pixels about (Hendrycks and Dietterich, ICLR 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from robustdeploy.core.bounds import Severity
from robustdeploy.data.corruptions.protocol import Floats, Table
from robustdeploy.onboard.draws import Draws


@dataclass(frozen=True)
class GlassBlur:
    """Blurs, replaces each pixel by one near it, and blurs again.

    The paper swaps both pixels. Its program does so in grey images alone and copies in colour, and so are its images.
    """

    severities: tuple[Severity, ...] = (1, 2, 3, 4, 5)

    SMALL: ClassVar[Table] = {
        "sigma": (0.05, 0.25, 0.4, 0.25, 0.4),
        "reach": (1, 1, 1, 1, 1),
        "rounds": (1, 1, 1, 2, 2),
    }
    LARGE: ClassVar[Table] = {"sigma": (0.7, 0.9, 1, 1.1, 1.5), "reach": (1, 2, 2, 3, 4), "rounds": (2, 1, 3, 2, 2)}

    def __call__(self, images: Floats, draws: Draws, *, sigma: float, reach: int, rounds: int) -> Floats:
        """Return images blurred by ``sigma`` pixels, whose pixels came from up to ``reach`` away, ``rounds`` times."""
        from scipy.ndimage import gaussian_filter

        def blurred(sharp: Floats) -> Floats:
            soft: Floats = gaussian_filter(sharp, (0, 0, sigma, sigma), mode="nearest")
            return soft

        # To whole grey levels in between, as published; channels last, so that a pixel lies together.
        glass = np.floor(blurred(images) * 255 + 1e-6).transpose(0, 2, 3, 1)
        (count, height, width, channels), every = glass.shape, np.arange(len(glass))
        for turn in range(rounds):
            uniform = draws.uniform(turn, 2 * height * width).reshape(count, height, width, 2)
            moves = np.floor(uniform * 2 * reach).astype(np.int64) - reach
            for row in range(height - reach, reach, -1):
                for column in range(width - reach, reach, -1):
                    away = moves[:, row, column]
                    rows, columns = row + away[:, 1], column + away[:, 0]
                    found = glass[every, rows, columns]
                    if channels == 1:
                        glass[every, rows, columns] = glass[:, row, column]
                    glass[:, row, column] = found
        return blurred(glass.transpose(0, 3, 1, 2) / 255)


plugin = GlassBlur
