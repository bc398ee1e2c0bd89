"""Attacked: what an attack on the board found and spent, and what of it cannot be true."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from robustdeploy.devices.answers import impossible
from robustdeploy.onboard.types import Bytes, Labels


@dataclass(frozen=True)
class Attacked:
    """What an attack on the board found and spent, image by image."""

    images: Bytes
    queries: Labels
    """Queries spent on each; −1 throughout where the attack does not count by image."""
    spent_ns: Labels
    """Time that the engine took for the first `MARKS` queries of each, N×marks; −1 throughout as above."""


def check_queries(spent: Labels, most: int, changed: npt.NDArray[np.bool_]) -> None:
    """Raise BoardError for queries per image that an attack of ``most`` per image cannot have spent."""
    # All of them together: that is how an attack says that it does not count by image.
    if (spent == -1).all():
        return
    if (spent < 0).any():
        raise impossible("attack", "queries", f"must be 0 or more for every image, not {int(spent.min()):,}")
    if (highest := int(spent.max())) > most:
        raise impossible("attack", "queries", f"must be at most {most:,} per image, not {highest:,}")
    # Only an answer of the engine can tell an attack which image is better than the one it began with.
    if free := int((changed & (spent == 0)).sum()):
        raise impossible("attack", "queries", f"is 0 for {free:,} images that were changed")


def check_times(times: Labels, spent: Labels, took_s: float) -> None:
    """Raise BoardError for times of queries that cannot be, within a call that took ``took_s`` here."""
    known = (spent >= 0).all()
    if not known and (times == -1).all():
        return
    if not known or (times < 0).any():
        raise impossible("attack", "spent_ns", "must be 0 or more for every image whose queries are counted")
    if (np.diff(times, axis=1) < 0).any():
        raise impossible("attack", "spent_ns", "falls while the queries rise")
    # As for the compiler: the share allows for clocks of other rates.
    if (total := times[:, -1].sum() * 1e-9) > took_s * 1.01:
        raise impossible("attack", "spent_ns", f"is {total:.4g} s, but the whole call took {took_s:.4g} s here")
