"""Brightness: more light than the camera allows for (Hendrycks and Dietterich, ICLR 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from robustdeploy.core.bounds import Severity
from robustdeploy.data.corruptions.protocol import Floats, Table
from robustdeploy.onboard.draws import Draws


@dataclass(frozen=True)
class Brightness:
    """Adds to the value of each pixel in the colour space HSV; its hue and its saturation stay."""

    severities: tuple[Severity, ...] = (1, 2, 3, 4, 5)

    SMALL: ClassVar[Table] = {"more": (0.05, 0.1, 0.15, 0.2, 0.3)}
    LARGE: ClassVar[Table] = {"more": (0.1, 0.2, 0.3, 0.4, 0.5)}

    def __call__(self, images: Floats, draws: Draws, *, more: float) -> Floats:
        """Return images whose value, the largest of a pixel's channels, is higher by ``more``."""
        value = images.max(1, keepdims=True)
        brighter: Floats = np.minimum(value + more, 1)
        # With hue and saturation fixed, all channels grow alike. Black has no hue and becomes grey.
        found: Floats = np.where(value > 0, images * brighter / np.maximum(value, 1e-12), brighter)
        return found


plugin = Brightness
