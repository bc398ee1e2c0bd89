"""Constant: the same rate from the first step to the last."""

from __future__ import annotations

from dataclasses import dataclass

from robustdeploy.core.bounds import Share
from robustdeploy.train.schedules.warmup import warmed_up


@dataclass(frozen=True)
class Constant:
    """One rate, after an optional warm-up."""

    warmup: Share = 0.0
    """Share of the phase in which the rate first rises linearly from 0."""

    def __call__(self, position: float) -> float:
        """Return the rate at ``position``, in (0, 1), as a share of its peak."""
        return warmed_up(lambda after: 1.0, position, self.warmup)


plugin = Constant
