"""Turn SIGINT and SIGTERM into a flag that long loops look at between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from robustdeploy.errors import Interrupted

# One for the process, as signals are. Loops far below ask for it without being handed anything.
_received: list[int] = []


def remember_interrupts() -> None:
    """Have Ctrl-C outside of `catch_signals` remembered as well as raised, so that the next block of it does not begin.

    What is raised while a library loads, or inside an exporter, may be taken by that library for an error of its own.
    """

    def note(number: int, frame: FrameType | None) -> None:
        _received.append(number)
        raise KeyboardInterrupt

    # A command that was started to ignore Ctrl-C goes on doing so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, note)


@contextmanager
def catch_signals() -> Iterator[None]:
    """Collect the first SIGINT or SIGTERM inside the block; a second one ends the process at once.

    One that nothing in the block has heeded is raised as Interrupted at its end, lest the next step begin.

    Outside the main thread, where Python allows no handlers, signals keep their usual meaning.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        # A loop that never looks at the flag must not make the process immortal.
        if _received:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        _received.append(number)

    stop_if_interrupted()
    # Whatever was there before comes back at the end: a notebook or a test runner has handlers of its own.
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
        stop_if_interrupted()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()


def interrupted() -> bool:
    """Whether a signal asks the work to stop."""
    return bool(_received)


def stop_if_interrupted() -> None:
    """Raise Interrupted when a signal asks the work to stop; call it where everything so far is safe on the disk."""
    if _received:
        raise Interrupted(_received[0])
