"""Places by what ``--on`` says."""

from __future__ import annotations

from robustdeploy.errors import UsageError
from robustdeploy.series.cluster import Cluster
from robustdeploy.series.here import Here
from robustdeploy.series.place import Place

HERE, RAY = "here", "ray://"


def place_from(word: str, *, quiet: bool, at_once: int = 1) -> Place:
    """Return where runs are made: ``here``, or on the Ray cluster at ``ray://HOST:PORT``; else a UsageError.

    ``at_once`` is how many of them are made side by side here; a cluster makes as many as it has free cores.
    """
    if at_once < 1:
        raise UsageError(f"--jobs {at_once}: at least one run is made at a time")
    if word == HERE:
        return Here(quiet, at_once)
    if word.startswith(RAY) and word != RAY:
        if at_once > 1:
            raise UsageError(f"--jobs {at_once} is for runs made here; {word} makes as many as it has free cores")
        return Cluster(word)
    raise UsageError(f"--on {word}: runs are made '{HERE}', or on a Ray cluster, such as ray://head:10001")
