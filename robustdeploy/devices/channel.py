"""A channel: the two ends of a pipe, with a deadline on every byte that is waited for."""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass

from robustdeploy.devices.link import Pipe
from robustdeploy.errors import BoardError

_MOST_AT_ONCE = 1 << 20


@dataclass
class Channel:
    """Reads and writes a pipe without ever waiting past ``until`` (on ``clock``); BoardError where that is reached."""

    pipe: Pipe
    clock: Callable[[], float] = time.monotonic
    until: float = 0.0
    reason: str = ""

    def __post_init__(self) -> None:
        # A blocking write of more than the pipe holds waits for a reader for ever, whatever select said before.
        os.set_blocking(self.pipe.writer.fileno(), False)

    def allow(self, seconds: float, reason: str = "") -> None:
        """Give the next reads and writes ``seconds`` from now; ``reason`` is what to say where they do not suffice."""
        self.reason = reason or f"no answer for {seconds:g} s; the board hangs or the link is down"
        self.until = self.clock() + seconds

    def readinto(self, buffer: memoryview, /) -> int:
        """Read what is there, at least one byte; 0 where the peer is gone."""
        descriptor = self.pipe.reader.fileno()
        self._wait(descriptor, selectors.EVENT_READ)
        data = os.read(descriptor, min(len(buffer), _MOST_AT_ONCE))  # past any buffer of the reader, which stays empty
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: memoryview, /) -> int:
        """Write what the pipe takes now."""
        descriptor = self.pipe.writer.fileno()
        self._wait(descriptor, selectors.EVENT_WRITE)
        try:
            return os.write(descriptor, data[:_MOST_AT_ONCE])
        # Between select and write the room may have gone; the caller simply asks again.
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            raise BoardError(f"{self.pipe.where}: the agent is gone: {self.pipe.failure()}") from None

    def flush(self) -> None:
        """Nothing is held back."""

    def _wait(self, descriptor: int, event: int) -> None:
        # Not `select.select`, which fails for descriptors above 1023 in a process with many open files.
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, event)
            if not selector.select(max(0.0, self.until - self.clock())):
                raise BoardError(f"{self.pipe.where}: {self.reason}")
