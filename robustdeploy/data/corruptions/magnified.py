"""Magnified: the middle of images made as large as the whole."""

from __future__ import annotations

import numpy as np

from robustdeploy.data.corruptions.protocol import Floats


def magnified(images: Floats, factor: float) -> Floats:
    """Return the middle of ``images`` (…×H×W) magnified by ``factor``, at least 1, and cut to H×W."""
    height, width = images.shape[-2:]
    found: Floats = _lines(height, factor) @ images @ _lines(width, factor).T
    return found


def _lines(side: int, factor: float) -> Floats:
    """Return the weights (side×side) by which each new line is made of two old ones."""
    from scipy.ndimage import zoom

    kept = int(np.ceil(side / factor))
    # Linear interpolation in two dimensions is that in one, twice. scipy says where its lines come from.
    whole = zoom(np.eye(kept), (factor, 1), order=1)
    first, cut = (side - kept) // 2, (len(whole) - side) // 2
    weights = np.zeros((side, side))
    weights[:, first : first + kept] = whole[cut : cut + side]
    return weights
