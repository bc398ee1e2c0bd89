"""The local link: an agent as a process on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from robustdeploy.core.files import temporary_folder
from robustdeploy.devices.link import Pipe, check_place
from robustdeploy.errors import BoardError

_GRACE_S = 2.0
_TAIL_BYTES = 8192


@dataclass(frozen=True)
class Local:
    """Runs the agent here, in a process group and a work folder of its own."""

    python: str = ""
    """Python that runs the agent; the one that runs robustdeploy when empty."""
    workdir: str = ""
    """Folder that keeps engines between runs; one that is removed at the end when empty."""

    def __post_init__(self) -> None:
        check_place("python", self.python, on_path=True)

    @contextmanager
    def open(self, agent: Path) -> Iterator[Pipe]:
        """Start ``agent`` and give the pipe to it; the whole group is killed on the way out."""
        with temporary_folder() as folder:
            work = ["--work", str(Path(self.workdir).resolve())] if self.workdir else []
            process = _start([self.python or sys.executable, str(agent.resolve()), *work], str(folder))
            stdin, stdout, stderr = (cast(BinaryIO, end) for end in (process.stdin, process.stdout, process.stderr))
            tail = Tail(stderr)
            try:
                yield Pipe(stdout, stdin, "this machine", lambda: _failure(process, tail))
            finally:
                stdin.close()
                _end(process)
                tail.finish()
                stdout.close()


class Tail:
    """Reads a stream to its end in the background and keeps the last of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._kept = b""
        # A daemon, since a grandchild that keeps stderr open must not keep the host from ending.
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def text(self) -> str:
        """Return what was kept, as text; a stream that has just ended is read to its end first."""
        # The last words may still be on their way when the process is seen to have ended.
        self._thread.join(0.2)
        return self._kept.decode("utf-8", "replace").strip()

    def finish(self, seconds: float = 1.0) -> None:
        """Wait a little for the end of the stream and close it; the thread ends with it."""
        self._thread.join(seconds)
        if not self._thread.is_alive():
            self._stream.close()

    def _drain(self) -> None:
        # Somebody has to read: a toolchain that writes more than a pipe holds would otherwise stop for ever.
        while piece := os.read(self._stream.fileno(), 65536):
            self._kept = (self._kept + piece)[-_TAIL_BYTES:]


def _start(command: list[str], folder: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    # Toolchains leave temporary files when they are killed; inside this folder they are removed with it.
    environment = {**os.environ, "TMPDIR": folder}
    try:
        return subprocess.Popen(
            command,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            bufsize=0,
            cwd=folder,
            env=environment,
            # Ctrl-C in a terminal goes to the whole foreground group, and the host alone decides when its agent ends.
            # The group is also what is killed at the end.
            start_new_session=True,
        )
    except OSError as error:
        found = f"{command[0]}: {error.strerror}"
        raise BoardError(f"the agent cannot be started with {found}; name a Python 3.10 or later") from None


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Say whether ``process`` ends within ``seconds``, but do not reap it: its group keeps its number."""
    until = time.monotonic() + seconds
    while process.returncode is None:
        # A reaped process's number may be given to another one, and killpg would then hit strangers.
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
            return True
        if time.monotonic() >= until:
            return False
        time.sleep(0.01)
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """Give the agent, whose stdin is closed, a moment to end; then kill whatever is left of its group."""
    _ended(process, _GRACE_S)
    # The agent may have ended by itself, with everything that it had started.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _failure(process: subprocess.Popen[bytes], stderr: Tail) -> str:
    """Say how the agent ended, without reaping it."""
    if not _ended(process, 1.0):
        return "it is still running but closed its pipe" + said(stderr.text())
    status = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    if status is None:
        return "it ended" + said(stderr.text())
    killed = status.si_code != os.CLD_EXITED
    how = (
        f"was killed by {signal.Signals(status.si_status).name}" if killed else f"ended with status {status.si_status}"
    )
    return f"it {how}{said(stderr.text())}"


def said(text: str) -> str:
    """Return the last lines of ``text`` as the end of a sentence; empty where there are none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f" and said: {' | '.join(lines[-3:])[-600:]}" if lines else " and said nothing"


plugin = Local
