"""Places by what ``--on`` says."""

from __future__ import annotations

from robustdeploy.core.cluster import cluster_address
from robustdeploy.errors import UsageError
from robustdeploy.series.cluster import Cluster
from robustdeploy.series.here import Here
from robustdeploy.series.place import Place


def place_from(word: str, *, quiet: bool, at_once: int = 1) -> Place:
    """Return where runs are made: ``here``, or on the Ray cluster at ``ray://HOST:PORT``; else a UsageError.

    ``at_once`` is how many of them are made side by side here; a cluster makes as many as it has free cores.
    """
    if at_once < 1:
        raise UsageError(f"--jobs {at_once}: at least one run is made at a time")
    address = cluster_address(word, "runs are made")
    if address is None:
        return Here(quiet, at_once)
    if at_once > 1:
        raise UsageError(f"--jobs {at_once} is for runs made here; {word} makes as many as it has free cores")
    return Cluster(address)
