"""Alternating: short jobs that take turns on one machine, so that whatever else it does hits all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import machine


def alternated(slow: str, fast: str, jobs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Any]:
    """Time ``jobs`` in turns; return seconds of each and ``slow``'s time over ``fast``'s, the median over rounds."""
    before = machine.load_average()
    for job in jobs.values():
        job()  # what a first run fetches or builds is not timed
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            times[name].append(time.perf_counter() - started)
    return {
        "seconds": {name: {"median": median(of), "lowest": min(of), "highest": max(of)} for name, of in times.items()},
        "ratio": median(long / short for long, short in zip(times[slow], times[fast], strict=True)),
        "rounds": rounds,
        "load_before": before,
        "load_after": machine.load_average(),
    }
