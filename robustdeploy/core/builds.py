"""Several builds of one net for one target: each is measured as a target of its own, e.g. ``host-cpu.build2``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from robustdeploy.core.target import Target

_NAME = re.compile(r"(.+)\.build(\d+)")
MOST = 100
"""Builds of one net for one target."""


def with_builds(targets: Sequence[Target], builds: int) -> list[Target]:
    """Return ``targets``, and for each build after the first a copy of each under a name of its own."""
    return [each if number == 1 else build_of(each, number) for each in targets for number in range(1, builds + 1)]


def build_of(target: Target, number: int) -> Target:
    """Return what measures build ``number`` of a target, counted from 2 as the first has the target's own name."""
    return target.model_copy(update={"name": f"{target.name}.build{number}"})


def build_in(name: str) -> tuple[str, int]:
    """Split the name of a build into its target's and its number; a target itself is its first build."""
    found = _NAME.fullmatch(name)
    return (name, 1) if found is None else (found[1], int(found[2]))


def built_for(place: str) -> str:
    """Return the target that a build is of, by the build's name."""
    return build_in(place)[0]
