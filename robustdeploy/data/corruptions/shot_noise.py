"""Shot noise: light comes in whole photons (Hendrycks and Dietterich, ICLR 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from robustdeploy.core.bounds import Severity
from robustdeploy.data.corruptions.protocol import Floats, Table
from robustdeploy.onboard.draws import Draws


@dataclass(frozen=True)
class ShotNoise:
    """Counts photons, as many as a Poisson distribution gives."""

    severities: tuple[Severity, ...] = (1, 2, 3, 4, 5)

    SMALL: ClassVar[Table] = {"photons": (500, 250, 100, 75, 50)}
    LARGE: ClassVar[Table] = {"photons": (60, 25, 12, 5, 3)}

    def __call__(self, images: Floats, draws: Draws, *, photons: int) -> Floats:
        """Return images of which a white pixel is ``photons`` photons on average."""
        uniform = draws.uniform(0, images[0].size).reshape(images.shape)
        levels = np.round(images * 255).astype(np.int64)
        counts = np.empty(images.shape)
        for level in np.unique(levels):
            here = levels == level
            counts[here] = _poisson(level / 255 * photons, uniform[here])
        return counts / photons


def _poisson(mean: float, uniform: Floats) -> Floats:
    """Turn uniform numbers into Poisson ones: the least count whose cumulative probability is above."""
    # scipy is slow to load, and commands that only list plug-ins need none of it.
    from scipy.special import pdtr

    counts = np.arange(int(mean + 10 * np.sqrt(mean)) + 20)
    found: Floats = np.searchsorted(pdtr(counts, mean), uniform, side="right").astype(np.float64)
    return found


plugin = ShotNoise
