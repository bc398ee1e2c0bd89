"""Which machine builds a target's engine: the board, or this one where its toolchain builds for the board."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from robustdeploy.core.target import Target
from robustdeploy.core.traits import DEVICE
from robustdeploy.devices.board import Board, board_from
from robustdeploy.devices.local import Local
from robustdeploy.devices.toolchain import Installed, installed_on
from robustdeploy.errors import ToolchainError

_ELSE = "set build_on to board"


def check_builder(board: Board, target: Target, agent: Path) -> None:
    """Raise ToolchainError where the engine cannot be built where the target says; nothing is built."""
    with builder_for(board, installed_on(board, target), target, agent):
        pass


@contextmanager
def builder_for(board: Board, there: Installed, target: Target, agent: Path) -> Iterator[Board]:
    """Give what builds the engine: ``board`` itself, or an agent on this machine where the target says so."""
    if target.build_on == "board":
        yield board
        return
    # A kernel is chosen by timing it on the very device, so such an engine built elsewhere is slow or does not load.
    if not there.traits.builds_on_host:
        raise ToolchainError(f"{target.name}: {there.name} builds its engines on the board alone; {_ELSE}")
    with board_from(Local(), agent, board.deadline_s) as host:
        _check_builds_for(installed_on(host, target), there)
        yield host


def _check_builds_for(here: Installed, there: Installed) -> None:
    built = f"an engine that is built by {here.name} {here.version} on {here.where}"
    # A serialised engine is tied to the version that wrote it, and other versions refuse it.
    if here.version != there.version:
        raise ToolchainError(
            f"{built} is not for {there.version}, which {there.where} has; install that version here, or {_ELSE}"
        )
    # A cross compiler may run on another device, but what its options make code for must be the same on both.
    apart = DEVICE if here.traits.cross_compiles else ()
    own, wanted = ({name: of[name] for name in of if name not in apart} for of in (here.identity, there.identity))
    if unlike := differing(own, wanted):
        raise ToolchainError(f"{built} is tied to {unlike} of {there.where}; {_ELSE}")


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    """Say the first thing in which two devices differ; empty where they agree."""
    for name in sorted({*one, *other}):
        if one.get(name) != other.get(name):
            return f"{name} '{one.get(name, '')}', not to the '{other.get(name, '')}'"
    return ""
