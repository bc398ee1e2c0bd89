"""Encoded: images handed to Pillow one by one, and taken back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from robustdeploy.data.corruptions.protocol import Floats


def by_picture(images: Floats, change: Callable[[Image.Image], Image.Image]) -> Floats:
    """Return ``images`` (N×C×H×W, whole grey levels in [0, 1]) each changed as a picture of Pillow's."""
    made = np.empty_like(images)
    for number, planes in enumerate(np.round(images * 255).astype(np.uint8)):
        picture = Image.fromarray(planes[0] if len(planes) == 1 else planes.transpose(1, 2, 0))
        changed = np.asarray(change(picture))
        made[number] = changed[None] if changed.ndim == 2 else changed.transpose(2, 0, 1)
    return made / 255
