"""Bumps: what the Square attack proposes in ℓ2 and ℓ1, where length that one place gets is taken from another.

Andriushchenko, Croce, Flammarion and Hein, "Square Attack", ECCV 2020, Algorithm 3 and section 3.3. Written from the
paper.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np

from .ball import rounded
from .criterion import Floats
from .draws import Draws
from .types import POWERS, Bytes, Threat

_TILES = 5
"""Bumps along each side that the search begins with."""
_TINY = 1e-12


def tiled(images: Bytes, threat: Threat, draws: Draws) -> Bytes:
    """Begin with bumps side by side over the whole of each image, each wholly up or wholly down in each channel."""
    count, channels, height, width = images.shape
    side = max(1, min(height, width) // _TILES)
    tiles = min(_TILES, height, width)
    signs = np.where(draws.uniform(0, channels * tiles * tiles) < 0.5, 1.0, -1.0).reshape(count, channels, tiles, tiles)
    # In the middle, where the tiles do not cover all of it.
    top, left = (height - side * tiles) // 2, (width - side * tiles) // 2
    moves = np.zeros(images.shape)
    for row, column in product(range(tiles), repeat=2):
        place = _window(top + row * side, left + column * side, side)
        moves[(slice(None), slice(None), *place)] = signs[:, :, row, column, None, None] * _bump(side, threat.norm)
    lengths = _lengths(moves, threat.norm, (1, 2, 3))
    return rounded(images, images + threat.length * moves / np.maximum(lengths, _TINY), threat)


def moved_bump(images: Bytes, best: Bytes, threat: Threat, side: int, draws: Draws, step: int) -> Bytes:
    """Put one bump into each of ``best``, of the length that stood there and elsewhere, and what is unused."""
    count, channels, height, width = images.shape
    # Of an odd number of pixels, at least three, as published: a bump has a middle.
    side = min(max(3, side + 1 - side % 2), height, width)
    power = POWERS[threat.norm]
    random = draws.uniform(step, 5 + channels)
    tops = (random[:, 0:2] * (height - side + 1)).astype(np.int64)
    lefts = (random[:, 2:4] * (width - side + 1)).astype(np.int64)
    signs = np.where(random[:, 5:] < 0.5, 1.0, -1.0)[..., None, None]
    moves = best.astype(np.float64) - images
    for row in range(count):
        windows = [_window(tops[row, at], lefts[row, at], side) for at in (0, 1)]
        its, either = moves[row], np.zeros((height, width), bool)
        for window in windows:
            either[window] = True
        new, old = ((slice(None), *window) for window in windows)
        unused = max(0.0, threat.most - float((np.abs(its) ** power).sum()))
        room = (np.abs(its[:, either]) ** power).sum(1) + unused / channels
        bump = _bump(side, threat.norm)
        standing = its[new] / np.maximum(_lengths(its[new], threat.norm, (1, 2)), _TINY)
        shape = signs[row] * (bump.T if random[row, 4] < 0.5 else bump) + standing
        its[old] = 0
        scale = room[:, None, None] ** (1 / power) / np.maximum(_lengths(shape, threat.norm, (1, 2)), _TINY)
        its[new] = scale * shape
    return rounded(images, images + moves, threat)


@lru_cache(maxsize=256)
def _bump(side: int, norm: str) -> Floats:
    """Return a pyramid beside one turned upside down, together ``side`` pixels wide and high, of length 1."""
    half = side // 2
    bump = np.zeros((side, side))
    bump[:half], bump[half:] = _pyramid(half, side), -_pyramid(side - half, side)
    return bump / _lengths(bump, norm, (0, 1))


def _pyramid(height: int, width: int) -> Floats:
    """Return what falls from the middle outwards, by less and less from ring to ring."""
    rows, columns = (np.abs(np.arange(size) - size // 2) for size in (height, width))
    rings = np.maximum.outer(rows, columns)
    drops = 1 / np.arange(1, max(height // 2, width // 2) + 2) ** 2.0
    heights = np.cumsum(drops[::-1])[::-1]
    pyramid: Floats = heights[rings]
    return pyramid


def _lengths(moves: Floats, norm: str, axes: tuple[int, ...]) -> Floats:
    lengths: Floats = (np.abs(moves) ** POWERS[norm]).sum(axes, keepdims=True) ** (1 / POWERS[norm])
    return lengths


def _window(top: int, left: int, side: int) -> tuple[slice, slice]:
    return slice(top, top + side), slice(left, left + side)
