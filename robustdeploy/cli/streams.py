"""stdout and stderr that never end a command: a reader that is gone, a full disk, a character no encoding can show.

What cannot be written is dropped and remembered; how the command then ends is decided at its end, by ``exit_code``.
"""

from __future__ import annotations

import codecs
import errno
import os
import sys
from pathlib import Path
from typing import Any

from robustdeploy.tracking.stream import Stream

PIPE_CLOSED = 141
"""128 + SIGPIPE, with which the system's own tools end in this case."""
FAILED = 4
_PLAIN = {"…": "...", "–": "-", "—": "-", "−": "-", "×": "x", "·": "*", "≥": ">=", "≤": "<=", "±": "+-", "→": "->"}


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
