"""stdout and stderr that never end a command: a reader that is gone, a full disk, a character no encoding can show.

They steer no terminal either: whatever is printed may hold words that others wrote, and is made printable here.

What cannot be written is dropped and remembered, so that an evaluation of hours does not die of a pager that was
closed; how the command then ends is decided at its end, by ``exit_code``.
"""

from __future__ import annotations

import codecs
import errno
import os
import sys
from pathlib import Path
from typing import Any

from robustdeploy.foreign import printable

PIPE_CLOSED = 141
"""128 + SIGPIPE, with which the system's own tools end in this case."""
FAILED = 4
_PLAIN = {"…": "...", "–": "-", "—": "-", "−": "-", "×": "x", "·": "*", "≥": ">=", "≤": "<=", "±": "+-", "→": "->"}


class Stream:
    """A text stream that keeps the first error of writing in ``failure`` and loses the words after it.

    Characters that do not show are written out; ``steering`` is the way round that.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def steering(self) -> Steering:
        """The same stream for who draws on a terminal, and makes foreign words printable itself."""
        return Steering(self)

    def write(self, text: str) -> int:
        """Write ``text``, or drop it where nothing can be written any more."""
        return self.write_as_it_is(printable(text))

    def write_as_it_is(self, text: str) -> int:
        """Write ``text`` with its escape sequences."""
        if self.failure is None:
            try:
                self._stream.write(text)
            except OSError as error:
                self._fail(error)
        return len(text)

    def flush(self) -> None:
        """Hand on what is buffered; a buffer shows only here that its reader is gone."""
        if self.failure is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.failure = error
        try:
            # What is left in the buffer goes nowhere, instead of failing once more when Python ends.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            self._stream.flush()
        except (OSError, ValueError):
            pass


class Steering:
    """A Stream that passes escape sequences on."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write ``text`` as it is."""
        return self._stream.write_as_it_is(text)


def guard() -> tuple[Stream, Stream]:
    """Put a Stream in place of stdout and of stderr and return both."""
    for descriptor in (0, 1, 2):
        _open_if_closed(descriptor)
    codecs.register_error("robustdeploy", _spelt)
    guarded = []
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="robustdeploy")
        guarded.append(Stream(stream))
        setattr(sys, name, guarded[-1])
    return guarded[0], guarded[1]


def shows_everything(stream: Any) -> bool:
    """Whether a stream's encoding has every character."""
    return str(getattr(stream, "encoding", None) or "utf-8").lower().replace("_", "-").startswith("utf")


def exit_code(code: int | None, stdout: Stream) -> tuple[int, str]:
    """Return the exit code, and a sentence where stdout failed; ``code`` is None where a command just ended.

    A verdict (and any error) keeps its code when a pipe was closed, since the code tells it. Of any other command only
    the words were wanted, and they did not arrive.
    """
    stdout.flush()
    if stdout.failure is None:
        return code or 0, ""
    if stdout.failure.errno in (errno.EPIPE, errno.ECONNRESET):
        return PIPE_CLOSED if code is None else code, ""
    why = stdout.failure.strerror or str(stdout.failure)
    return FAILED, f"the result could not be written to stdout: {why}; make room, or send it somewhere else"


def _spelt(error: UnicodeError) -> tuple[str, int]:
    """Spell what an encoding lacks in ASCII: by look where that is usual, else by its number."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    spelt = "".join(_PLAIN.get(each) or each.encode("ascii", "backslashreplace").decode() for each in lacking)
    return spelt, error.end


def _open_if_closed(descriptor: int) -> None:
    """Keep files that are opened later from taking the number of a stream that was closed by the caller."""
    try:
        os.fstat(descriptor)
    except OSError:
        os.open(os.devnull, os.O_RDWR)  # the lowest free number
