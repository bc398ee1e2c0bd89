"""Turns: engines that run one after another, all over again, so that whatever disturbs the board meets all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from .types import Model, Pixels

MOST_ENGINES = 64
"""Each of them is in memory while all take turns."""
MOST_TURNS = 1000

Clock = Callable[[], int]


def take_turns(
    models: Sequence[Model], images: Pixels, turns: int, turn_s: float, clock: Clock = time.perf_counter_ns
) -> tuple[npt.NDArray[np.int64], int]:
    """Return the quickest call of each turn in nanoseconds, models × turns, and how many images were scored in all."""
    if not (1 <= turns <= MOST_TURNS and 0 < turn_s <= 60 and 1 <= len(models) <= MOST_ENGINES):
        raise UsageError(f"{len(models)} engines cannot take {turns} turns of {turn_s:g} s")
    quickest = np.zeros((len(models), turns), np.int64)
    calls = 0
    for turn in range(turns):
        for number, model in enumerate(models):
            # Not timed: it brings the engine's weights back into the caches that the one before has filled.
            model(images)
            ends, shortest, calls = clock() + int(turn_s * 1e9), 0, calls + 1
            while True:
                before = clock()
                model(images)
                after = clock()
                calls += 1
                shortest = min(shortest, after - before) if shortest else after - before
                if after >= ends:
                    break
            quickest[number, turn] = max(1, shortest)
    return quickest, calls * len(images)
