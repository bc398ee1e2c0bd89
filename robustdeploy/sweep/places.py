"""Places by what ``--on`` says."""

from __future__ import annotations

from robustdeploy.errors import UsageError
from robustdeploy.sweep.cluster import Cluster
from robustdeploy.sweep.here import Here
from robustdeploy.sweep.place import Place

HERE, RAY = "here", "ray://"


def place_from(word: str, *, quiet: bool) -> Place:
    """Return where runs are made: ``here``, or on the Ray cluster at ``ray://HOST:PORT``; else a UsageError."""
    if word == HERE:
        return Here(quiet)
    if word.startswith(RAY) and word != RAY:
        return Cluster(word)
    raise UsageError(f"--on {word}: runs are made '{HERE}', or on a Ray cluster, such as ray://head:10001")
