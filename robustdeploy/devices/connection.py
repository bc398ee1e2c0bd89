"""A connection to a board's agent, which is made anew where it is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from robustdeploy.core.interrupts import stop_if_interrupted
from robustdeploy.devices.link import Link, Pipe
from robustdeploy.errors import BoardError, BoardLostError

Say = Callable[[str], object]

LOSSES = 3
"""How often one request may lose its connection: what ends the agent each time is the request itself."""
_PAUSES_S = (0.5, 2.0, 5.0, 10.0, 10.0, 10.0, 10.0, 10.0)
"""Between attempts to connect anew; together they outlast the restart of a small board."""


class AnotherBoard(BoardLostError):
    """What answers over the link is not the board that was lost; connecting once more would not help."""


@dataclass
class Connection:
    """Starts an agent over a link, as often as it is needed; leaving the context ends it."""

    link: Link
    agent: Path
    say: Say | None = None
    """Hears that a connection was lost and is made anew; where it is None, none is."""
    sleep: Callable[[float], None] = time.sleep
    _open: AbstractContextManager[Pipe] | None = field(default=None, init=False, repr=False)

    @property
    def lasts(self) -> bool:
        """Whether it is made anew where it is lost."""
        return self.say is not None

    def open(self) -> Pipe:
        """Start an agent and return the pipe to it; the one before is ended first."""
        self.close()
        opened = self.link.open(self.agent)
        pipe = opened.__enter__()
        self._open = opened
        return pipe

    def anew(self, lost: BoardError, ready: Callable[[Pipe], None]) -> None:
        """Connect until ``ready`` takes the pipe; BoardError with both reasons where that does not come about."""
        assert self.say is not None
        self.say(f"note: the connection was lost: {lost}; connecting anew")
        failed = lost
        for pause_s in _PAUSES_S:
            self.sleep(pause_s)
            stop_if_interrupted()
            try:
                ready(self.open())
                return
            except AnotherBoard:
                raise
            except BoardError as error:
                failed = error
        told = f"connecting anew fails: {failed}; repeat the command once it answers, and it resumes"
        raise BoardLostError(f"{lost}; {told}")

    def close(self) -> None:
        """End the agent and everything that it started."""
        opened, self._open = self._open, None
        if opened is not None:
            opened.__exit__(None, None, None)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
