"""Gaussian noise: what a sensor adds in low light (Hendrycks and Dietterich, ICLR 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robustdeploy.core.bounds import Severity
from robustdeploy.data.corruptions.protocol import Floats, Table
from robustdeploy.onboard.draws import Draws


@dataclass(frozen=True)
class GaussianNoise:
    """Adds a normal number to every pixel of every channel."""

    severities: tuple[Severity, ...] = (1, 2, 3, 4, 5)

    SMALL: ClassVar[Table] = {"scale": (0.04, 0.06, 0.08, 0.09, 0.10)}
    LARGE: ClassVar[Table] = {"scale": (0.08, 0.12, 0.18, 0.26, 0.38)}

    def __call__(self, images: Floats, draws: Draws, *, scale: float) -> Floats:
        """Return images with noise of standard deviation ``scale``."""
        return images + scale * draws.normal(0, images[0].size).reshape(images.shape)


plugin = GaussianNoise
