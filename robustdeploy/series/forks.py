"""Forks: runs as processes of this machine, started by one that has loaded what they need (`robustdeploy.cli.forking`).

To it goes one line of JSON for each run, ``{"run": 3, "words": […], "told_in": "FILE"}``, and back comes one when that
has ended, ``{"run": 3, "code": 0}``; a code below 0 is the signal that killed it.
"""

from __future__ import annotations

import json
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path


class Forks:
    """Starts runs in ``folder`` under ``environment``; they end with the process that has this."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder, self._environment = folder, environment
        self._server: subprocess.Popen[bytes] | None = None
        self._begun = 0
        self._running: set[int] = set()
        self._rest = b""

    def start(self, words: Sequence[str], told_in: Path) -> int:
        """Start ``robustdeploy`` with these words, and return the number by which `ended` tells of it.

        The words of an error that it ends with are written to ``told_in``.
        """
        if self._server is None:
            self._open()
        self._begun += 1
        self._running.add(self._begun)
        line = json.dumps({"run": self._begun, "words": list(words), "told_in": str(told_in)})
        with suppress(OSError):  # of one that has just died, which `ended` finds
            self._told.sendall(line.encode() + b"\n")
        return self._begun

    def _open(self) -> None:
        self._told, theirs = socket.socketpair()
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "robustdeploy.cli.forking", str(theirs.fileno())],
                cwd=self._folder,
                env=self._environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # So that Ctrl-C reaches it once, and from here alone: a second signal would end a run at once.
                start_new_session=True,
            )

    def ended(self, wait_s: float) -> dict[int, int]:
        """Return the exit codes of the runs that have ended; wait so long at most for one of them."""
        if self._server is None or not select.select([self._told], [], [], wait_s)[0]:
            return {}
        try:
            came = self._told.recv(65536)
        except OSError:
            came = b""
        if not came:
            # With it go the runs that it has started.
            codes = dict.fromkeys(self._running, self._server.wait())
            self.close()
        else:
            *lines, self._rest = (self._rest + came).split(b"\n")
            codes = {each["run"]: each["code"] for each in map(json.loads, lines)}
        self._running -= codes.keys()
        return codes

    def interrupt(self) -> None:
        """Ask all runs to stop, as Ctrl-C would."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)

    def close(self) -> None:
        """End what starts them; a run that is still there is told to stop by its system."""
        if self._server is not None:
            self._told.close()
            self._server.wait()
            self._server = None
