"""Multi-step: the rate is multiplied by a factor at each of some milestones; one milestone makes it a single step."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from robustdeploy.core.bounds import Rate, Share
from robustdeploy.train.schedules.warmup import warmed_up


@dataclass(frozen=True)
class MultiStep:
    """A staircase."""

    milestones: tuple[float, ...] = (0.5, 0.75)
    """Shares of the phase (behind the warm-up) at which the rate drops, each in (0, 1) and above the one before."""
    factor: Rate = 0.1
    """What the rate is multiplied by at each of them."""
    warmup: Share = 0.0
    """Share of the phase in which the rate first rises linearly from 0."""

    def __post_init__(self) -> None:
        if not all(0 < place < 1 for place in self.milestones) or any(b <= a for a, b in pairwise(self.milestones)):
            raise ValueError(f"milestones must be shares in (0, 1) that rise, not {list(self.milestones)}")

    def __call__(self, position: float) -> float:
        """Return the rate at ``position``, in (0, 1), as a share of its peak."""

        def staircase(after: float) -> float:
            return float(self.factor ** sum(after >= place for place in self.milestones))

        return warmed_up(staircase, position, self.warmup)


plugin = MultiStep
