"""Turn SIGINT and SIGTERM into a flag that long loops look at between two steps."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from robustdeploy.errors import Interrupted

# One for the process, as signals are. Loops far below ask for it without being handed anything.
_received: list[int] = []
_PDEATHSIG = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


def remember_interrupts() -> None:
    """Have signals outside of `catch_signals` remembered as well as raised, so that its next block does not begin.

    What is raised while a library loads, or inside an exporter, may be taken by that library for an error of its own.
    SIGTERM is raised like Ctrl-C, so that what was begun is cleaned up.
    """

    def note(number: int, frame: FrameType | None) -> None:
        _received.append(number)
        raise KeyboardInterrupt

    # A shell has every command that it begins in the background ignore Ctrl-C. It would be heeded inside
    # `catch_signals` and nowhere else; whoever sends a signal to this process itself means it.
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL, signal.SIG_IGN):
            signal.signal(number, note)


def end_with_parent() -> None:
    """Have this process told to stop when the one that started it is gone, however that ended; on Linux alone."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PDEATHSIG, signal.SIGTERM)


def signal_received() -> int:
    """Return the first signal that was remembered; that of Ctrl-C where none was."""
    return _received[0] if _received else signal.SIGINT


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
    except BaseException:
        _restore(before)
        _received.clear()
        raise
    _restore(before)
    # One may still have come while the handlers were put back.
    if _received:
        raise Interrupted(_received.pop())


def _restore(before: Mapping[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)


def interrupted() -> bool:
    """Whether a signal asks the work to stop."""
    return bool(_received)


def stop_if_interrupted() -> None:
    """Raise Interrupted when a signal asks the work to stop; call it where everything so far is safe on the disk."""
    if _received:
        raise Interrupted(_received[0])
