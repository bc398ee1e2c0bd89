"""Paced timing: responses from the moment an image is due, as a sensor gives it, whatever the engine was busy with.

Counting from the moment an engine begins would leave out how long images wait for a slow one ("coordinated omission").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from robustdeploy.devices.window import Window
from robustdeploy.evaluate.intervals import clopper_pearson
from robustdeploy.evaluate.timings import Figure
from robustdeploy.onboard.timing import Nanoseconds

_MS = 1e6


@dataclass(frozen=True)
class Responses:
    """What one paced window says; `deadline_ns` after it was due, a batch is late."""

    times_ns: Nanoseconds
    """From the moment each batch was due to the end of its run. The last ones may still have waited at the end."""
    unanswered: int
    """Batches that were due and had not begun when the window ended."""
    late: npt.NDArray[np.bool_]
    overrun: npt.NDArray[np.bool_]
    """Batches that were due while the engine was still busy with one before."""


def responses_of(window: Window, deadline_ns: int) -> Responses:
    """Work out the responses of a paced window; batch k was due at k times its period."""
    period, starts, samples = window.period_ns, window.starts_ns, window.samples_ns
    count = len(samples)
    due = period * np.arange(count, dtype=np.int64)
    ends = starts + samples
    # Of batches that nobody began it is known that they took at least the time that they had waited.
    waiting = window.duration_ns - period * np.arange(count, window.duration_ns // period + 1, dtype=np.int64)
    # The last one may have been due a moment before the end, where nothing was amiss.
    waiting = waiting[waiting > deadline_ns]
    times = np.concatenate([ends - due, waiting])
    overrun = np.concatenate([[False], ends[:-1] > due[1:], np.ones(len(waiting), bool)])
    return Responses(times, len(waiting), times > deadline_ns, overrun)


def share_of(name: str, flags: Sequence[npt.NDArray[np.bool_]], quiet: Sequence[bool]) -> Figure:
    """Return the share of true flags over all runs, from the least that a quiet run had to the most of any."""
    every = np.concatenate(flags)
    low, high = clopper_pearson(int(every.sum()), len(every))
    own = tuple(float(each.mean()) for each in flags)
    still = [share for share, is_quiet in zip(own, quiet, strict=True) if is_quiet]
    # Where others kept the board busy in all runs, all that was late may have been late for that.
    lowest = min(low, *still) if still else 0.0
    return Figure(name, float(every.mean()), lowest, max(high, *own), runs=own)
