"""Warm-up: a linear rise from 0 before a schedule begins (Goyal et al., 2017)."""

from __future__ import annotations

from collections.abc import Callable


def warmed_up(schedule: Callable[[float], float], position: float, warmup: float) -> float:
    """Return the rate at ``position`` of a phase whose first share ``warmup`` rises to where ``schedule`` begins."""
    if position < warmup:
        # Up to where the schedule begins and not to 1: between the two the rate would jump.
        return schedule(0.0) * position / warmup
    return schedule((position - warmup) / (1 - warmup))
