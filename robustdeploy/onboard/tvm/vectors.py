"""Vectors: how many numbers one register of a processor holds, how many there are, and the tiles that fit into them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_SPARE = 3
"""Registers left for weights and for the value that is multiplied with them."""
_BUSY = 8
"""Sums in flight that keep the multipliers of today's cores busy: two of them, four cycles each."""
_WEIGHTS = 4
"""What loading a vector of weights costs, in loads of a value that is multiplied with them: it comes from further away."""


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


def tile_for(height: int, width: int, channels: int, vectors: Vectors) -> Tile:
    """Return the tile of a map that takes the fewest loads for each multiplication, and still fits into registers."""
    lanes = lanes_for(channels, vectors)
    room = vectors.registers - _SPARE
    best, least = Tile(1, 1, 1, lanes), float("inf")
    for wide in divisors(channels // lanes):
        for columns in divisors(width):
            for rows in divisors(height) if columns == width else (1,):
                sums = rows * columns * wide
                # One register for each vector of weights beside the sums.
                if sums + wide > room and sums > 1:
                    continue
                cost = (1 / wide + _WEIGHTS / (rows * columns)) * max(1, _BUSY / sums)
                if cost < least - 1e-9:
                    best, least = Tile(rows, columns, wide, lanes), cost
    return best


def depthwise_tile_for(width: int, channels: int, vectors: Vectors) -> Tile:
    """Return the tile of a depthwise convolution: one vector of channels, and as many columns as fit beside weights."""
    columns = max(number for number in divisors(width) if number <= min(8, vectors.registers // 2))
    return Tile(1, columns, 1, lanes_for(channels, vectors))
