"""Zoom blur: the camera moves quickly towards what it sees (Hendrycks and Dietterich, ICLR 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from robustdeploy.core.bounds import Severity
from robustdeploy.data.corruptions.magnified import magnified
from robustdeploy.data.corruptions.protocol import Floats, Table
from robustdeploy.onboard.draws import Draws


@dataclass(frozen=True)
class ZoomBlur:
    """Averages an image and magnifications of it."""

    severities: tuple[Severity, ...] = (1, 2, 3, 4, 5)

    SMALL: ClassVar[Table] = {"below": (1.06, 1.11, 1.16, 1.21, 1.26), "step": (0.01, 0.01, 0.01, 0.01, 0.01)}
    LARGE: ClassVar[Table] = {"below": (1.11, 1.16, 1.21, 1.26, 1.31), "step": (0.01, 0.01, 0.02, 0.02, 0.03)}

    def __call__(self, images: Floats, draws: Draws, *, below: float, step: float) -> Floats:
        """Return the mean over the images and their magnifications, from 1 by ``step`` to ``below``."""
        # By numpy's own count, which rounding decides: that of the published program.
        factors = np.arange(1, below, step)
        total = images + sum(magnified(images, factor) for factor in factors)
        mean: Floats = total / (len(factors) + 1)
        return mean


plugin = ZoomBlur
