"""Motion blur: the camera moves while it looks (Hendrycks and Dietterich, ICLR 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robustdeploy.core.bounds import Severity
from robustdeploy.data.corruptions.motion import smeared
from robustdeploy.data.corruptions.protocol import Floats, Table
from robustdeploy.onboard.draws import Draws


@dataclass(frozen=True)
class MotionBlur:
    """Smears an image along a direction of its own, up to 45 degrees from the horizontal."""

    severities: tuple[Severity, ...] = (1, 2, 3, 4, 5)

    SMALL: ClassVar[Table] = {"radius": (6, 6, 6, 8, 9), "sigma": (1, 1.5, 2, 2, 2.5)}
    LARGE: ClassVar[Table] = {"radius": (10, 15, 15, 15, 20), "sigma": (3, 5, 8, 12, 15)}

    def __call__(self, images: Floats, draws: Draws, *, radius: float, sigma: float) -> Floats:
        """Return images smeared over ``radius`` pixels, half of it over about ``sigma``."""
        return smeared(images, radius, sigma, 90 * draws.uniform(0, 1)[:, 0] - 45)


plugin = MotionBlur
