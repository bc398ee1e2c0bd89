"""Room: how much memory is still to be had here, and a refusal in time where that is too little."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

from robustdeploy.core.reading import size_text
from robustdeploy.errors import DataError

_CGROUPS = Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """Return how much memory this process may still take, by the machine, its control group and its own limit."""
    found = [*_of_machine(), *_of_control_group(), *_of_process()]
    return max(0, min(found)) if found else None


def check_room(what: str, needed: float, fix: str, available: int | None) -> None:
    """Refuse with a DataError what needs more bytes than are available; ``fix`` says what would need less."""
    if available is not None and needed > available:
        raise DataError(
            f"{what} would take about {size_text(int(needed))} of memory, and {size_text(available)} are to be had "
            f"here; {fix}"
        )


def _of_machine() -> Iterator[int]:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            # MemFree leaves out what the kernel would give back, such as cached files; the kernel estimates this one
            # itself.
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        try:
            yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError):
            return


def _of_control_group() -> Iterator[int]:
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    yield from left_of_control_groups(_CGROUPS, lines)


def left_of_control_groups(root: Path, lines: Sequence[str]) -> Iterator[int]:
    """What is left of the limits of a process's control group and of those around it (version 2, then 1).

    ``lines`` are those of its ``/proc/self/cgroup``, ``root`` is where the groups' files are.
    """
    found = [line.split(":", 2) for line in lines if line.count(":") >= 2]
    names = {kind: path for _, kinds, path in found for kind in kinds.split(",")}
    for top, name, files in (
        (root, names.get("", "/"), ("memory.max", "memory.current")),
        (root / "memory", names.get("memory", "/"), ("memory.limit_in_bytes", "memory.usage_in_bytes")),
    ):
        own = top / name.strip("/")
        # Every group around this one limits it as well. In a container the innermost often has no limit of its own.
        for folder in (own, *own.parents):
            if folder.is_relative_to(top) and (left := _left(folder, *files)) is not None:
                yield left


def _left(folder: Path, limit: str, used: str) -> int | None:
    """The limit less what is used; files that the kernel merely keeps at hand do not count as used."""
    try:
        # The kernel counts cached files as used, though it drops them before it refuses memory.
        held = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        kept = int(held.get("inactive_file", held.get("total_inactive_file", "0")))
        return int((folder / limit).read_text()) - int((folder / used).read_text()) + kept
    except (OSError, ValueError):
        return None


def _of_process() -> Iterator[int]:
    # That limit is on the address space, hence the first number of statm, and not the resident one.
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        pages = 0
    yield soft - pages * resource.getpagesize()
