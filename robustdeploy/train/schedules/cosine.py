"""Cosine: the rate falls from its peak to 0 along half a cosine (Loshchilov and Hutter, ICLR 2017)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from robustdeploy.core.bounds import Share
from robustdeploy.train.schedules.warmup import warmed_up


@dataclass(frozen=True)
class Cosine:
    """Slow at both ends, without restarts."""

    warmup: Share = 0.0
    """Share of the phase in which the rate first rises linearly from 0."""

    def __call__(self, position: float) -> float:
        """Return the rate at ``position``, in (0, 1), as a share of its peak."""
        return warmed_up(lambda after: 0.5 * (1 + math.cos(math.pi * after)), position, self.warmup)


plugin = Cosine
