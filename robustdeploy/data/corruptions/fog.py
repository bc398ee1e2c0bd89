"""Fog: clouds of light before the scene (Hendrycks and Dietterich, ICLR 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robustdeploy.core.bounds import Severity
from robustdeploy.data.corruptions.plasma import plasma
from robustdeploy.data.corruptions.protocol import Floats, Table
from robustdeploy.onboard.draws import Draws


@dataclass(frozen=True)
class Fog:
    """Adds clouds made by the diamond-square algorithm, and dims the whole to the brightest value that there was."""

    severities: tuple[Severity, ...] = (1, 2, 3, 4, 5)

    SMALL: ClassVar[Table] = {"thickness": (0.2, 0.5, 0.75, 1, 1.5), "decay": (3, 3, 2.5, 2, 1.75)}
    LARGE: ClassVar[Table] = {"thickness": (1.5, 2, 2.5, 2.5, 3), "decay": (2, 2, 1.7, 1.5, 1.4)}

    def __call__(self, images: Floats, draws: Draws, *, thickness: float, decay: float) -> Floats:
        """Return images in fog of ``thickness``, whose detail weakens by ``decay`` from scale to scale."""
        brightest = images.max((1, 2, 3), keepdims=True)
        clouds = plasma(draws, 0, images.shape[2], images.shape[3], decay)[:, None]
        dimmed: Floats = (images + thickness * clouds) * brightest / (brightest + thickness)
        return dimmed


plugin = Fog
