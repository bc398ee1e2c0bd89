"""A fresh process: an agent of its own, started by this one for one run, so that runs share no state."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import BoardError
from .telemetry import Watch
from .wire import Array, Message, read_message, write_message

# Where this package was found: a folder, or the zip that travelled here.
_ROOT = Path(__file__).parents[2]
# `-c` and `-m` would look for modules in the current folder first, where anything may lie.
_START = """import sys
sys.path[0] = sys.argv[1]
from robustdeploy.onboard.__main__ import main
sys.exit(main(sys.argv[2:]))
"""
_GRACE_S = 2.0


class Fresh:
    """An agent in a process of its own, with the files of ``folder``; leaving the context ends it."""

    def __init__(self, folder: Path) -> None:
        began = time.monotonic_ns()
        # Its standard error is ours: what a toolchain says there reaches the host.
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(_ROOT), "--work", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._began = began

    @property
    def pid(self) -> int:
        """Its number, by which the system tells of it."""
        return self._process.pid

    def ask(
        self, op: str, head: Mapping[str, Any], arrays: Mapping[str, Array] | None = None, watch: Watch | None = None
    ) -> Message:
        """Ask it and wait for the answer; ``watch`` reads the board's sensors meanwhile."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            write_message(self._process.stdin, {**head, "op": op, "id": 0}, arrays)
            self._wait(watch)
            answer = read_message(self._process.stdout)  # type: ignore[arg-type]
        except BrokenPipeError:
            answer = None
        if answer is None:
            raise BoardError(f"the run's own process {self._end()} during '{op}'")
        answer.head.pop("id", None)
        return answer

    def _wait(self, watch: Watch | None) -> None:
        assert self._process.stdout is not None
        poller = select.poll()
        poller.register(self._process.stdout, select.POLLIN | select.POLLHUP)
        while watch is not None and not poller.poll(1000 * watch.wait_s()):
            watch.take()
            if self._was_stopped():
                watch.stopped()

    def _was_stopped(self) -> bool:
        """Whether a signal stopped or continued it since this was asked last, however short the pause."""
        with suppress(ChildProcessError, AttributeError):
            found = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WCONTINUED | os.WNOHANG)
            return found is not None and found.si_code in (os.CLD_STOPPED, os.CLD_CONTINUED)
        return False

    def _end(self) -> str:
        status = self._process.wait()
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"ended with status {status}"

    def __enter__(self) -> Fresh:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()  # which ends it
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
