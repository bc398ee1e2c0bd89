"""A board's architecture: one name for each, held against what the target says."""

from __future__ import annotations

from robustdeploy.core.target import ARCHITECTURES
from robustdeploy.errors import BoardError


def architecture_of(machine: str) -> str:
    """Return the one name of what a board says its machine is: ``arm64`` is ``aarch64``, ``AMD64`` is ``x86_64``."""
    return ARCHITECTURES.get(machine.lower(), machine)


def check_architecture(machine: str, arch: str, where: str) -> None:
    """Raise BoardError where the board in ``where`` is not of the target's architecture ``arch``; ``any`` takes all."""
    if arch not in ("any", found := architecture_of(machine)):
        raise BoardError(
            f"{where}: the board is of the architecture {found[:60]}, but the target is for {arch}; "
            "correct the target's arch, or its link"
        )
