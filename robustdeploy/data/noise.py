"""Noise, random numbers in torch that are a pure function of (key, sample, step, position).

The twin of ``robustdeploy.onboard.draws``: same numbers, bit for bit, on the CPU and on CUDA. torch lacks unsigned
64-bit arithmetic, so int64 stands for it: sums and products wrap alike, and a mask makes right shifts logical.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def _signed(number: int) -> int:
    """Return the int64 with the bits of ``number`` modulo 2**64."""
    return ((number + (1 << 63)) & ((1 << 64) - 1)) - (1 << 63)


# SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): 2⁶⁴ over the golden ratio, then Stafford's mixing constants.
_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _fold(z: Tensor, shift: int, scratch: Tensor) -> Tensor:
    """Do ``z ^= z >>> shift`` in place."""
    torch.bitwise_right_shift(z, shift, out=scratch)
    return z.bitwise_xor_(scratch.bitwise_and_((1 << (64 - shift)) - 1))


def mix_(z: Tensor) -> Tensor:
    """Mix int64 ``z`` in place with SplitMix64; distinct inputs stay distinct."""
    # One scratch tensor for all shifts: noise is drawn in every step, for every pixel of a batch.
    scratch = torch.empty_like(z)
    _fold(z.add_(_GOLDEN), 30, scratch).mul_(_FIRST)
    _fold(z, 27, scratch).mul_(_SECOND)
    return _fold(z, 31, scratch)


class Noise:
    """Random numbers for the samples ``ids`` (int64, on any device) under one ``key`` of ``onboard.draws.key``."""

    def __init__(self, key: int, ids: Tensor) -> None:
        self.key = key
        self.ids = ids.to(torch.int64)
        self._rows = mix_(self.ids ^ _signed(key))

    def select(self, index: Tensor) -> Noise:
        """Return the noise of the samples at ``index``."""
        return Noise(self.key, self.ids[index])

    def uniform(self, step: int, shape: Sequence[int]) -> Tensor:
        """Return float32 numbers in [0, 1) for step ``step``, of ``shape`` for each sample: N×*shape*."""
        positions = torch.arange(math.prod(shape), dtype=torch.int64, device=self.ids.device)
        # Step and position share one number: up to 2³² positions, no two of them are ever the same.
        positions = mix_(positions + _signed(step << 32))
        mixed = mix_(self._rows[:, None] ^ positions)
        # The upper 24 bits, as many as a float32 holds exactly; the result is below 1 without any rounding.
        numbers = mixed.bitwise_right_shift_(40).bitwise_and_((1 << 24) - 1).to(torch.float32)
        return numbers.mul_(2.0**-24).view(len(self.ids), *shape)
