"""Frost: ice on the lens, drawn by a formula; the published corruption lays photographs of frost over an image.

It has the published weights and another texture, so its figures stand beside nobody's for frost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from robustdeploy.core.bounds import Severity
from robustdeploy.data.corruptions.plasma import plasma
from robustdeploy.data.corruptions.protocol import Floats, Table
from robustdeploy.onboard.draws import Draws

_SEEDS = 16
"""Crystals that an image of any size holds."""
_ICE = np.array([0.82, 0.92, 1.0])
"""Red, green and blue of ice."""


@dataclass(frozen=True)
class ProceduralFrost:
    """Lays ice over an image: bright needles where crystals meet (Worley 1996), thick here and thin there.

    The published one lays photographs.
    """

    severities: tuple[Severity, ...] = (1, 2, 3, 4, 5)

    SMALL: ClassVar[Table] = {"scene": (1, 1, 0.9, 0.85, 0.75), "ice": (0.2, 0.3, 0.4, 0.4, 0.45)}
    LARGE: ClassVar[Table] = {"scene": (1, 0.8, 0.7, 0.65, 0.6), "ice": (0.4, 0.6, 0.7, 0.7, 0.75)}
    conditions: ClassVar[dict[str, Any]] = {"texture": "procedural, not the published photographs of frost"}

    def __call__(self, images: Floats, draws: Draws, *, scene: float, ice: float) -> Floats:
        """Return ``scene`` of the image and ``ice`` of the frost."""
        frost = _frost(draws, *images.shape[2:])[:, None]
        colour = _ICE if images.shape[1] == 3 else _ICE.mean(keepdims=True)
        frozen: Floats = scene * images + ice * frost * colour[:, None, None]
        return frozen


def _frost(draws: Draws, height: int, width: int) -> Floats:
    """Return N×H×W brightness of ice, from 0 to 1."""
    seeds = draws.uniform(0, 2 * _SEEDS).reshape(-1, _SEEDS, 2)
    down, across = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    nearest = np.full((len(seeds), 2, height, width), np.inf)
    for number in range(_SEEDS):
        rows, columns = seeds[:, number, 0, None] - down, seeds[:, number, 1, None] - across
        away = np.hypot(rows[:, :, None], columns[:, None, :])
        nearest = np.sort(np.concatenate([nearest, away[:, None]], 1), 1)[:, :2]
    needles = np.exp(-(nearest[:, 1] - nearest[:, 0]) * 12)
    thick = plasma(draws, 1, height, width, 2.0)
    made: Floats = np.clip(0.35 * thick + 0.65 * needles * (0.4 + 0.6 * thick) + 0.15, 0, 1)
    return made


plugin = ProceduralFrost
