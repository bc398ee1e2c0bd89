"""Streams: what Python prints to, made so that neither a closed pipe nor foreign words do harm.

They steer no terminal: whatever is printed may hold words that others wrote, and is made printable here. What cannot
be written is dropped and remembered, so that an evaluation of hours does not die of a pager that was closed.
"""

from __future__ import annotations

import os
from typing import Any

from robustdeploy.foreign import printable


class Stream:
    """A text stream that keeps the first error of writing in ``failure`` and loses the words after it.

    Characters that do not show are written out; ``steering`` is the way round that.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    # Libraries ask a stream for its encoding, its descriptor and whether it is a terminal.
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
