"""Impulse noise: dead and saturated pixels, salt and pepper (Hendrycks and Dietterich, ICLR 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from robustdeploy.core.bounds import Severity
from robustdeploy.data.corruptions.protocol import Floats, Table
from robustdeploy.onboard.draws import Draws


@dataclass(frozen=True)
class ImpulseNoise:
    """Sets some values of some channels to black or white, each as often."""

    severities: tuple[Severity, ...] = (1, 2, 3, 4, 5)

    SMALL: ClassVar[Table] = {"amount": (0.01, 0.02, 0.03, 0.05, 0.07)}
    LARGE: ClassVar[Table] = {"amount": (0.03, 0.06, 0.09, 0.17, 0.27)}

    def __call__(self, images: Floats, draws: Draws, *, amount: float) -> Floats:
        """Return images of which the share ``amount`` is replaced, channel by channel."""
        uniform = draws.uniform(0, images[0].size).reshape(images.shape)
        return np.where(uniform < amount / 2, 0.0, np.where(uniform < amount, 1.0, images))


plugin = ImpulseNoise
