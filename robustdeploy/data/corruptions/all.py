"""All: the fifteen kinds of Hendrycks and Dietterich (ICLR 2019), in their order; frost is the procedural one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robustdeploy.core.bounds import Severity


@dataclass(frozen=True)
class All:
    """Stands for fifteen corruptions."""

    severities: tuple[Severity, ...] = (1, 2, 3, 4, 5)

    PARTS: ClassVar[tuple[str, ...]] = (
        "gaussian-noise",
        "shot-noise",
        "impulse-noise",
        "defocus-blur",
        "glass-blur",
        "motion-blur",
        "zoom-blur",
        "snow",
        "procedural-frost",
        "fog",
        "brightness",
        "contrast",
        "elastic-transform",
        "pixelate",
        "jpeg",
    )


plugin = All
