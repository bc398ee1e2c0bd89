"""What a board is, held against what the target says of it: its architecture, and whether it is emulated."""

from __future__ import annotations

from robustdeploy.core.target import ARCHITECTURES
from robustdeploy.errors import BoardError

EMULATED = "emulated Arm board (QEMU)"
"""What an emulated board of ours says of its model."""


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


def check_emulated(board_model: str, emulated: bool, where: str) -> None:
    """Raise BoardError where an emulated board would be taken for a real one: its latency must never be told."""
    if EMULATED in board_model and not emulated:
        raise BoardError(f"{where} is an emulated board; set `emulated: true` in the target, so that it is not timed")
