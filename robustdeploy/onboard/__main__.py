"""The agent: answers a host's requests over stdin and stdout until stdin ends.

Nothing here may print to stdout: the pipe is moved away from it first, so whatever a toolchain prints goes to stderr.
When the host is gone the agent ends, in the middle of an attack too.
"""

from __future__ import annotations

import os
import select
import shutil
import sys
import tempfile
import threading
import time
from io import FileIO
from pathlib import Path

from ..errors import UsageError

_GRACE_S = 0.5


def main(arguments: list[str] | None = None) -> int:
    """Serve one host; ``[--work FOLDER]`` keeps files there instead of in a folder that is removed at the end."""
    reader, writer = _take_pipe()
    try:
        work = _work_folder(sys.argv[1:] if arguments is None else arguments)
        folder = work or Path(tempfile.mkdtemp(prefix="robustdeploy-"))
    except (UsageError, OSError) as error:
        print(f"robustdeploy agent: {error}", file=sys.stderr)
        return 2
    remove = None if work else folder
    # A toolchain may compile for an hour without looking at the pipe; the thread notices that the host is gone.
    threading.Thread(target=_end_with_host, args=(reader.fileno(), remove), daemon=True).start()
    try:
        return _serve(reader, writer, folder)
    except BrokenPipeError:
        return 0
    finally:
        if remove is not None:
            shutil.rmtree(remove, ignore_errors=True)


def _take_pipe() -> tuple[FileIO, FileIO]:
    """Keep stdin and stdout for messages alone: later reads of 0 find nothing, later prints to 1 go to stderr."""
    # Unbuffered, so that an answer leaves at once and nothing is read ahead of the message that is due.
    reader = os.fdopen(os.dup(0), "rb", buffering=0)
    writer = os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    # C++ libraries print to descriptor 1 directly, so replacing `sys.stdout` would not be enough.
    os.dup2(2, 1)
    return reader, writer


def _work_folder(arguments: list[str]) -> Path | None:
    if not arguments:
        return None
    if len(arguments) != 2 or arguments[0] != "--work":
        raise UsageError(f"unknown arguments {' '.join(arguments)!r}; it takes '--work FOLDER' or nothing")
    folder = Path(arguments[1])
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _end_with_host(descriptor: int, remove: Path | None) -> None:
    """Wait until the other end of stdin is closed; then give the main thread a moment to end by itself."""
    poller = select.poll()
    # No events but the hang-up: a request that comes in belongs to the main thread.
    poller.register(descriptor, getattr(select, "POLLRDHUP", 0))  # POLLHUP and POLLERR are always reported
    poller.poll()
    time.sleep(_GRACE_S)
    if remove is not None:
        shutil.rmtree(remove, ignore_errors=True)
    # `sys.exit` in a thread ends that thread alone, and the main one may be deep in a toolchain.
    os._exit(4)


def _serve(reader: FileIO, writer: FileIO, folder: Path) -> int:
    try:
        # Here and not at the top: without numpy the agent must still be able to say what is missing.
        from .session import serve
    except ImportError as error:
        print(f"robustdeploy agent: {error}; python3 -m pip install numpy", file=sys.stderr)
        return 4
    return serve(reader, writer, folder)


if __name__ == "__main__":
    raise SystemExit(main())
