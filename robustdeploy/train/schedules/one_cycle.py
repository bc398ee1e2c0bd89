"""One cycle: the rate rises linearly from 0 to its peak at half the phase, and falls back to 0 (Smith, 2018)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OneCycle:
    """A triangle."""

    def __call__(self, position: float) -> float:
        """Return the rate at ``position``, in (0, 1), as a share of its peak."""
        return min(2 * position, 2 * (1 - position))


plugin = OneCycle
