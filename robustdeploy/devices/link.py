"""A link: a way to open a pipe to an agent on a board."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from robustdeploy.errors import UsageError


def check_place(what: str, path: str, *, on_path: bool) -> None:
    """Refuse, with a UsageError, a program or configuration that a target names by a path from the current folder.

    A target that somebody sent would otherwise start what lies beside it. A program may be a name, found ``on_path``.
    """
    if path and not path.startswith(("/", "~/")) and not (on_path and "/" not in path):
        name = ", or a name that is found on PATH" if on_path else ""
        raise UsageError(f"the link's {what} is {path!r}; give its whole path{name}")


@dataclass
class Pipe:
    """An open pipe to one running agent."""

    reader: BinaryIO
    """What the agent answers; unbuffered or buffered, but with a real file descriptor, so that it can be waited on."""
    writer: BinaryIO
    """What the agent is asked; closing it ends the agent."""
    where: str
    """The place in words, for messages: ``this machine``, ``user@board``."""
    failure: Callable[[], str]
    """Explain a dead peer: exit status and the tail of what it wrote to stderr."""


class Link(Protocol):
    """A way to a board. Leaving the context ends the agent and everything it started."""

    def open(self, agent: Path) -> AbstractContextManager[Pipe]:
        """Start the zipped ``agent`` on the board and give the pipe to it; BoardError where that fails."""
        ...
