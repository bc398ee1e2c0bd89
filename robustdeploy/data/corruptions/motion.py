"""Motion: smear images along a line, as a camera or a flake that moves does.

The weights and the way are those of ImageMagick's motion blur, which the published images were made with: half a
Gaussian, from the pixel on, along whole pixels.
"""

from __future__ import annotations

import numpy as np

from robustdeploy.data.corruptions.protocol import Floats


def smeared(images: Floats, radius: float, sigma: float, degrees: Floats) -> Floats:
    """Return ``images`` (N×C×H×W) smeared, each along its own of N directions, and rounded to whole grey levels.

    ``radius`` is how far, in pixels, and ``sigma`` how soon it fades. Beyond the border the outermost pixel goes on.
    """
    steps = np.arange(2 * int(np.ceil(radius)) + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    angles = np.deg2rad(degrees)[:, None]
    right, down = (np.ceil(steps * way - 0.5).astype(np.int64) for way in (np.cos(angles), np.sin(angles)))
    (count, _, height, width), made = images.shape, np.zeros_like(images)
    every = np.arange(count)[:, None, None]
    pixels = images.transpose(0, 2, 3, 1)
    for step, weight in enumerate(weights):
        rows = np.clip(np.arange(height) + down[:, step, None], 0, height - 1)[:, :, None]
        columns = np.clip(np.arange(width) + right[:, step, None], 0, width - 1)[:, None, :]
        made += weight * pixels[every, rows, columns].transpose(0, 3, 1, 2)
    rounded: Floats = np.round(made * 255) / 255
    return rounded
