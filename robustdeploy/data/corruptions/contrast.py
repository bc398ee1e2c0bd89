"""Contrast: everything close to the same grey (Hendrycks and Dietterich, ICLR 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robustdeploy.core.bounds import Severity
from robustdeploy.data.corruptions.protocol import Floats, Table
from robustdeploy.onboard.draws import Draws


@dataclass(frozen=True)
class Contrast:
    """Draws each channel of an image to its mean."""

    severities: tuple[Severity, ...] = (1, 2, 3, 4, 5)

    SMALL: ClassVar[Table] = {"kept": (0.75, 0.5, 0.4, 0.3, 0.15)}
    LARGE: ClassVar[Table] = {"kept": (0.4, 0.3, 0.2, 0.1, 0.05)}

    def __call__(self, images: Floats, draws: Draws, *, kept: float) -> Floats:
        """Return images of which the share ``kept`` of the contrast is left."""
        mean = images.mean((2, 3), keepdims=True)
        flat: Floats = mean + kept * (images - mean)
        return flat


plugin = Contrast
