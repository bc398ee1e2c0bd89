"""Vectors: how many numbers one register of a processor holds, how many there are, and the tiles that fit into them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_SPARE = 3
"""Registers left for weights and for the value that is multiplied with them."""
_BUSY = 8
"""Sums in flight that keep the multipliers of today's cores busy: two of them, four cycles each."""
_NEAR_WEIGHTS, _FAR_WEIGHTS = 4, 7
"""What loading a vector of weights costs, in loads of a value that it is multiplied with, which lies nearer."""
_NEAR_BYTES = 16 << 10
"""Weights of one vector of channels that stay in the nearest cache beside the map."""


@dataclass(frozen=True)
class Vectors:
    """The vector registers of one processor, for float32."""

    lanes: int
    registers: int


@dataclass(frozen=True)
class Tile:
    """What is summed in registers at once: ``rows`` × ``columns`` places, ``vectors`` of ``lanes`` channels each."""

    rows: int
    columns: int
    vectors: int
    lanes: int

    @property
    def channels(self) -> int:
        """How many channels a tile has."""
        return self.vectors * self.lanes


def lanes_for(channels: int, vectors: Vectors) -> int:
    """Return the longest vector, a power of two, that divides ``channels``; 1 where none does."""
    # LLVM splits a vector of any other length into single numbers, which is several times slower than a shorter one.
    lanes = vectors.lanes
    while channels % lanes:
        lanes //= 2
    return lanes


def divisors(number: int) -> Iterator[int]:
    """Give the divisors of ``number``, the smallest first."""
    return (candidate for candidate in range(1, number + 1) if number % candidate == 0)


def tile_for(height: int, width: int, channels: int, depth: int, vectors: Vectors) -> Tile:
    """Return the tile of a map that takes the fewest loads for each multiplication, and still fits into registers.

    ``depth`` is how many products are summed for one number.
    """
    lanes = lanes_for(channels, vectors)
    room = vectors.registers - _SPARE
    weights = _NEAR_WEIGHTS if 4 * depth * lanes <= _NEAR_BYTES else _FAR_WEIGHTS
    best, least = Tile(1, 1, 1, lanes), float("inf")
    for wide in divisors(channels // lanes):
        for columns in divisors(width):
            for rows in divisors(height) if columns == width else (1,):
                sums = rows * columns * wide
                # One register for each vector of weights beside the sums.
                if sums + wide > room and sums > 1:
                    continue
                cost = (1 / wide + weights / (rows * columns)) * max(1, _BUSY / sums)
                if cost < least - 1e-9:
                    best, least = Tile(rows, columns, wide, lanes), cost
    return best


def depthwise_tile_for(width: int, channels: int, vectors: Vectors) -> Tile:
    """Return the tile of a depthwise convolution: one vector of channels, and as many columns as fit beside weights."""
    columns = max(number for number in divisors(width) if number <= min(8, vectors.registers // 2))
    return Tile(1, columns, 1, lanes_for(channels, vectors))


def padded(channels: int, vectors: Vectors, always: bool = False) -> int:
    """Return how many channels to compute in place of ``channels``: whole vectors, where that takes fewer of them.

    Full vectors are as fast as short ones, so 24 channels in two vectors of 16 take two thirds of three of 8.
    ``always`` fills the last vector even where that saves none.
    """
    whole = -(-channels // vectors.lanes)
    if always or whole < channels // lanes_for(channels, vectors):
        return whole * vectors.lanes
    return channels
