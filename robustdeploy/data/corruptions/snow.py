"""Snow: flakes that fall, and a whiter scene (Hendrycks and Dietterich, ICLR 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from robustdeploy.core.bounds import Severity
from robustdeploy.data.corruptions.magnified import magnified
from robustdeploy.data.corruptions.motion import smeared
from robustdeploy.data.corruptions.protocol import Floats, Table
from robustdeploy.onboard.draws import Draws

_GREY = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in what is as bright (ITU-R BT.601)."""


@dataclass(frozen=True)
class Snow:
    """Adds flakes, magnified noise above a threshold and smeared downwards, and whitens what is behind them."""

    severities: tuple[Severity, ...] = (1, 2, 3, 4, 5)

    SMALL: ClassVar[Table] = {
        "mean": (0.1, 0.1, 0.15, 0.25, 0.3),
        "scale": (0.2, 0.2, 0.3, 0.3, 0.3),
        "size": (1, 1, 1.75, 2.25, 1.25),
        "above": (0.6, 0.5, 0.55, 0.6, 0.65),
        "radius": (8, 10, 10, 12, 14),
        "sigma": (3, 4, 4, 6, 12),
        "clear": (0.95, 0.9, 0.9, 0.85, 0.8),
    }
    LARGE: ClassVar[Table] = {
        "mean": (0.1, 0.2, 0.55, 0.55, 0.55),
        "scale": (0.3, 0.3, 0.3, 0.3, 0.3),
        "size": (3, 2, 4, 4.5, 2.5),
        "above": (0.5, 0.5, 0.9, 0.85, 0.85),
        "radius": (10, 12, 12, 12, 12),
        "sigma": (4, 4, 8, 8, 12),
        "clear": (0.8, 0.7, 0.7, 0.65, 0.55),
    }

    def __call__(
        self,
        images: Floats,
        draws: Draws,
        *,
        mean: float,
        scale: float,
        size: float,
        above: float,
        radius: float,
        sigma: float,
        clear: float,
    ) -> Floats:
        """Return images under snow.

        Flakes are where noise of ``mean`` and ``scale`` is ``above``, of ``size`` pixels, smeared by ``radius`` and
        ``sigma``. The share ``clear`` of the scene is as it was.
        """
        count, channels, height, width = images.shape
        noise = mean + scale * draws.normal(0, height * width).reshape(count, 1, height, width)
        flakes = magnified(noise, size)
        flakes = np.floor(np.clip(np.where(flakes < above, 0, flakes), 0, 1) * 255 + 1e-6) / 255
        flakes = smeared(flakes, radius, sigma, 90 * draws.uniform(1, 1)[:, 0] - 135)
        grey = images if channels == 1 else np.einsum("c,nchw->nhw", _GREY, images)[:, None]
        white = np.maximum(images, 1.5 * grey + 0.5)
        # The flakes once more, turned by 180 degrees.
        return clear * images + (1 - clear) * white + flakes + flakes[:, :, ::-1, ::-1]


plugin = Snow
