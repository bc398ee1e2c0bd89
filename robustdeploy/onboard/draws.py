"""Random numbers as a pure function of (seed, sample, step, position).

No generator state exists, so a resumed, reordered or re-batched run draws exactly the same numbers.
The mixing function is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014). ``robustdeploy.data.noise`` is its twin in torch; a test holds the two together bit for bit.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def _mix_int(z: int) -> int:
    z = (z + _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def key(*parts: int | str) -> int:
    """Fold integers and names into one 64-bit key, e.g. ``key(seed, "fastat", epoch)``."""
    state = 0
    for part in parts:
        # Python's own hash of a text differs from process to process.
        number = zlib.crc32(part.encode()) if isinstance(part, str) else part
        state = _mix_int(state ^ (number & _MASK))
    return state


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = z + np.uint64(_GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Draws:
    """Random numbers for the samples ``ids`` under one ``key``."""

    def __init__(self, key: int, ids: npt.ArrayLike) -> None:
        self.key = key
        self.ids = np.asarray(ids, dtype=np.int64)
        self._rows = _mix(self.ids.astype(np.uint64) ^ np.uint64(key))

    def select(self, index: npt.NDArray[np.int64]) -> Draws:
        """Return the draws of the samples at ``index``."""
        return Draws(self.key, self.ids[index])

    def uniform(self, step: int, count: int) -> npt.NDArray[np.float64]:
        """Return numbers in [0, 1), one row of ``count`` per sample, for step ``step``."""
        start = np.uint64((step * 0x100000000) & _MASK)
        positions = np.arange(count, dtype=np.uint64) + start
        mixed = _mix(self._rows[:, None] ^ _mix(positions)[None, :])
        # 24 bits are what a float32 holds exactly, so the twin in torch gives the same numbers.
        return (mixed >> np.uint64(40)).astype(np.float64) * 2.0**-24

    def normal(self, step: int, count: int) -> npt.NDArray[np.float64]:
        """Return numbers of the standard normal distribution, one row of ``count`` per sample, for step ``step``.

        Box and Muller, "A note on the generation of random normal deviates", Annals of Mathematical Statistics 29
        (1958).
        """
        # An angle and a radius for each number, of one draw; the other half of each pair is not needed.
        uniform = self.uniform(step, 2 * count)
        radius = np.sqrt(-2 * np.log1p(-uniform[:, :count]))
        normal: npt.NDArray[np.float64] = radius * np.cos(2 * np.pi * uniform[:, count:])
        return normal
