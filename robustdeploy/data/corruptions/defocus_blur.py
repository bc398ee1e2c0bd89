"""Defocus blur: a lens that is out of focus spreads a point over a disk (Hendrycks and Dietterich, ICLR 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from robustdeploy.core.bounds import Severity
from robustdeploy.data.corruptions.protocol import Floats, Table
from robustdeploy.onboard.draws import Draws


@dataclass(frozen=True)
class DefocusBlur:
    """Averages over a disk with a soft edge; beyond the border the image is mirrored."""

    severities: tuple[Severity, ...] = (1, 2, 3, 4, 5)

    SMALL: ClassVar[Table] = {"radius": (0.3, 0.4, 0.5, 1.0, 1.5), "edge": (0.4, 0.5, 0.6, 0.2, 0.1)}
    LARGE: ClassVar[Table] = {"radius": (3, 4, 6, 8, 10), "edge": (0.1, 0.5, 0.5, 0.5, 0.5)}

    def __call__(self, images: Floats, draws: Draws, *, radius: float, edge: float) -> Floats:
        """Return images blurred by a disk of ``radius`` pixels, whose edge is a Gaussian of ``edge`` pixels."""
        from scipy.ndimage import correlate

        blurred: Floats = correlate(images, disk(radius, edge)[None, None], mode="mirror")
        return blurred


def disk(radius: float, edge: float) -> Floats:
    """Return the weights of a disk, which add up to 1, on a square grid."""
    from scipy.ndimage import correlate1d

    reach = int(np.ceil(radius)) + (1 if radius <= 8 else 2)
    across = np.arange(-reach, reach + 1)
    hard = (across[:, None] ** 2 + across**2 <= radius**2).astype(np.float64)
    # Of a Gaussian, the middle three or five weights alone, as in the published program.
    near = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    soft = np.exp(-(near**2) / (2 * edge**2))
    soft /= soft.sum()
    made: Floats = correlate1d(correlate1d(hard / hard.sum(), soft, 0, mode="constant"), soft, 1, mode="constant")
    return made


plugin = DefocusBlur
