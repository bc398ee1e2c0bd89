"""The ball: which 8-bit images a threat allows. Lengths are compared in integers, where nothing is rounded.

In ℓ∞ a ball is a box, and each pixel is rounded and cut by itself. In ℓ2 and ℓ1 pixels share one length: an image is
pulled towards the clean one until it is inside, and rounded so that as much of that length as possible is kept.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .criterion import Floats
from .types import POWERS, Bytes, Threat

_NEAR = 1e-3
"""Grey levels by which a number may miss a whole one that it stands for."""


def outside(images: Bytes, others: Bytes, threat: Threat) -> npt.NDArray[np.bool_]:
    """Return one bit per image: ``others`` (N×C×H×W, as ``images``) lies beyond the threat's ball."""
    # uint8 would wrap around: 3 - 8 is 251 there.
    moves = np.abs(images.astype(np.int64) - others.astype(np.int64)).reshape(_flat(images))
    if threat.norm == "linf":
        return np.asarray(moves.max(1, initial=0) > threat.levels)
    return np.asarray((moves ** POWERS[threat.norm]).sum(1) > threat.most)


def rounded(images: Bytes, values: npt.ArrayLike, threat: Threat) -> Bytes:
    """Return ``values``, in grey levels, as 8-bit images in the ball around ``images``; what are such stay as they are.

    In ℓ∞ that is the nearest one. Else rounding makes no move longer: pixels are rounded towards the clean image. Those
    that lose most by it go to the next level, as long as that uses up no more than the move's length or the radius.
    """
    wide = np.asarray(values, np.float64)
    if threat.norm == "linf":
        low, high = threat.box(images)
        return np.asarray(np.clip(np.rint(wide), low, high).astype(np.uint8))
    clean = images.astype(np.int64)
    moves = (np.clip(wide, 0, 255) - clean).reshape(_flat(images))
    sizes, whole = np.abs(moves), np.rint(np.abs(moves))
    sizes = pulled_in(np.where(np.abs(sizes - whole) < _NEAR, whole, sizes), threat)
    steps = (np.sign(moves) * _filled(sizes, threat)).astype(np.int64)
    return np.asarray((clean + steps.reshape(clean.shape)).astype(np.uint8))


def _flat(images: Bytes) -> tuple[int, int]:
    # Written out, since of no image numpy cannot tell how many pixels one has.
    return len(images), math.prod(images.shape[1:])


def pulled_in(sizes: Floats, threat: Threat) -> Floats:
    """Return sizes of moves (N×D, not negative) as the nearest ones in the ball, in ℓ2 or ℓ1; those inside stay."""
    power, most = POWERS[threat.norm], float(threat.most)
    long = (sizes**power).sum(1) > most
    if not long.any():
        return sizes
    found = sizes.copy()
    if power == 2:
        found[long] *= threat.length / np.sqrt(np.square(sizes[long]).sum(1, keepdims=True))
        return found
    # Duchi et al., "Efficient projections onto the ℓ1-ball" (ICML 2008): all sizes shrink by one number, down to 0.
    ordered = -np.sort(-sizes[long], axis=1)
    shrinks = (np.cumsum(ordered, axis=1) - most) / np.arange(1, sizes.shape[1] + 1)
    kept = (ordered > shrinks).sum(1, keepdims=True)
    found[long] = np.maximum(sizes[long] - np.take_along_axis(shrinks, kept - 1, 1), 0)
    return found


def _filled(sizes: Floats, threat: Threat) -> Floats:
    """Round sizes of moves to whole levels, down first and then up where it pays most."""
    power = POWERS[threat.norm]
    whole = np.floor(sizes)
    rest = sizes - whole
    # What may be used up; the sum of powers of whole levels is exact in float64.
    most = np.minimum(np.floor((sizes**power).sum(1) + _NEAR), threat.most)
    costs = (whole + 1) ** power - whole**power
    # A loss that grows with each change gains by a step up in proportion to its size, and pays by what that costs.
    worth = np.where(rest > 0, sizes / costs if power == 2 else rest, -1.0)
    order = np.argsort(-worth, axis=1, kind="stable")
    spent = np.cumsum(np.take_along_axis(costs, order, 1), axis=1) + (whole**power).sum(1, keepdims=True)
    up = np.zeros_like(whole)
    np.put_along_axis(up, order, (spent <= most[:, None]).astype(np.float64), 1)
    return np.asarray(whole + up * (rest > 0))
