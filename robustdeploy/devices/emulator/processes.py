"""The processes of a board's server: found by their parents, or by the mark that each of them inherits."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MARK = "ROBUSTDEPLOY_BOARD"
"""Environment variable with the board's folder, which the server gives to everything that it starts."""
_PROC = Path("/proc")


def started_at(pid: int) -> int | None:
    """Return when a process began, in the kernel's ticks, which tells it from a later one of the same number."""
    found = _stat(pid)
    # A zombie has ended, and waits only to be asked how.
    return None if found is None or found[1] == "Z" else found[2]


def processes_of(server: int | None, mark: str) -> list[int]:
    """Return all processes that ``server`` has started, or that carry ``mark``; the server itself is not among them."""
    facts = {pid: found for pid in _pids() if (found := _stat(pid)) is not None and found[1] != "Z"}
    below = {server}
    # A child may have a lower number than its parent, so one pass is not enough.
    while more := {pid for pid, (parent, _, _) in facts.items() if parent in below and pid not in below}:
        below |= more
    marked = {pid for pid in facts if _carries(pid, mark)}
    return sorted((marked | below) - {server, os.getpid(), None}, key=int)  # type: ignore[arg-type]


def kill(pids: list[int], patience_s: float = 5.0) -> list[int]:
    """Kill processes and wait for their end; return those that are still there."""
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + patience_s
    while left := [pid for pid in pids if started_at(pid) is not None]:
        if time.monotonic() > until:
            break
        time.sleep(0.02)
    return left


def _pids() -> Iterator[int]:
    for entry in os.scandir(_PROC):
        if entry.name.isdigit():
            yield int(entry.name)


def _stat(pid: int) -> tuple[int, str, int] | None:
    """Return parent, state and start of a process; None where it is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text("utf-8", "replace")
    except OSError:
        return None
    # The name stands in parentheses and may hold any of them itself.
    fields = text.rpartition(")")[2].split()
    return int(fields[1]), fields[0], int(fields[19])


def _carries(pid: int, mark: str) -> bool:
    try:
        return f"{MARK}={mark}".encode() in (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:  # gone, or of another user
        return False
