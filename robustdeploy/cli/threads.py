"""How long torch's threads wait for one another before they give their core away.

GNU's OpenMP, which torch's packages for Linux bring, lets a thread that is done with its share of a layer spin for some
milliseconds. Where another process wants a core too, the thread that is waited for stands still behind it while its
neighbour spins, at every layer. A short wait lets the system move it over, and costs a little where nothing else runs;
``benchmarks/busy.py`` measures both.
"""

from __future__ import annotations

import os

WAIT_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
SPINS = "3000"
"""Turns of the waiting loop that are a short wait."""
BUSY = 0.5
"""Load average of the last minute above which others are taken to use the machine."""


def wait_briefly_if_busy() -> None:
    """Set the short wait, for a torch that is not loaded yet, if others use the machine and the user has set none."""
    if _is_busy() and not any(name in os.environ for name in WAIT_SETTINGS):
        os.environ["GOMP_SPINCOUNT"] = SPINS


def _is_busy() -> bool:
    try:
        return os.getloadavg()[0] > BUSY
    except (AttributeError, OSError):  # a system that does not say
        return False
