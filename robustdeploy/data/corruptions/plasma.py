"""Plasma: clouds of noise at every scale, by the diamond-square algorithm (Fournier, Fussell and Carpenter, 1982)."""

from __future__ import annotations

import numpy as np

from robustdeploy.data.corruptions.protocol import Floats
from robustdeploy.onboard.draws import Draws


def plasma(draws: Draws, step: int, height: int, width: int, decay: float) -> Floats:
    """Return N×H×W clouds from 0 to 1; ``decay`` is by how much finer detail is weaker, ``step`` the first draw.

    The square wraps round at its border, and the amplitude of each scale is squared, as in the published program.
    """
    side = 1 << max(height - 1, width - 1, 1).bit_length()
    clouds, spread, gap = np.zeros((len(draws.ids), side, side)), 100.0, side

    def wobbled(total: Floats) -> Floats:
        nonlocal step
        step += 1
        count = total.shape[1] * total.shape[2]
        return total / 4 + spread**2 * (2 * draws.uniform(step, count).reshape(total.shape) - 1)

    while gap >= 2:
        half = gap // 2
        corners = clouds[:, ::gap, ::gap]
        pairs = corners + np.roll(corners, -1, 1)
        clouds[:, half::gap, half::gap] = middles = wobbled(pairs + np.roll(pairs, -1, 2))
        # Each point of the two kinds of edges lies between two corners and two middles.
        beside = corners + np.roll(corners, -1, 2)
        clouds[:, ::gap, half::gap] = wobbled(middles + np.roll(middles, 1, 1) + beside)
        beside = corners + np.roll(corners, -1, 1)
        clouds[:, half::gap, ::gap] = wobbled(middles + np.roll(middles, 1, 2) + beside)
        gap, spread = half, spread / decay
    clouds -= clouds.min((1, 2), keepdims=True)
    clouds /= clouds.max((1, 2), keepdims=True)
    return clouds[:, :height, :width]
