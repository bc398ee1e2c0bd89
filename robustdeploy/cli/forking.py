"""Forking: the process that starts the runs of a series, with all that a run needs loaded before the first of them.

A fresh Python spends six seconds of a core on torch and its exporter alone, where a fork has them at once. Each run is
still a process of its own. Nothing is computed here, and of one run others learn only which nets were rehearsed.

``python -m robustdeploy.cli.forking SOCKET`` is for `robustdeploy.series.forks`, which says what is sent.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NoReturn

from robustdeploy.cli import main
from robustdeploy.cli.heavy import rehearsal, setup
from robustdeploy.cli.threads import wait_briefly_if_busy
from robustdeploy.errors import TOLD_IN

LOADED = (
    "robustdeploy.cli.run", "robustdeploy.cli.prune", "robustdeploy.api", "robustdeploy.train.tasks.fastat",
    "scipy.stats", "sklearn.datasets", "networkx", "torch._dynamo", "torch._functorch.aot_autograd",
    "torch.export._trace", "torch.onnx._internal.exporter._core", "onnxscript.optimizer",
    "onnxscript.function_libs.torch_lib.ops",
)  # fmt: skip
"""What a run imports that takes long. None of it starts a thread, which a fork would lack, as ONNX Runtime does."""
_LOOK_S = 0.05
_MOST = 65536
"""Bytes that are read at once, and that a pipe holds."""


@dataclass
class Server:
    """Starts a run for each line that comes in, and says how each ended, until the other side is gone.

    The runs are then told to stop by their system. SIGINT is handed on to all of them.
    """

    told: socket.socket
    warm: bool
    running: dict[int, tuple[int, int]] = field(default_factory=dict)
    """The number of each run, and the pipe on which it tells what it has rehearsed, by its process."""

    def serve(self) -> None:
        """Go on until the other side is gone."""
        signal.signal(signal.SIGINT, self._hand_on)
        rest = b""
        while True:
            if select.select([self.told], [], [], _LOOK_S)[0]:
                if not (came := self.told.recv(_MOST)):
                    return
                *lines, rest = (rest + came).split(b"\n")
                for line in lines:
                    self._start(json.loads(line))
            while self.running and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                self._ended(ended[0], os.waitstatus_to_exitcode(ended[1]))

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        for pid in self.running:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _start(self, asked: Mapping[str, Any]) -> None:
        theirs, own = os.pipe()
        os.set_blocking(theirs, False)
        # A signal between the fork and the note of it would not reach the run.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        if (pid := os.fork()) == 0:
            self.told.close()
            _become(asked["words"], asked["told_in"], self.warm, own)
        self.running[pid] = asked["run"], theirs
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        os.close(own)

    def _ended(self, pid: int, code: int) -> None:
        run, theirs = self.running.pop(pid)
        if self.warm:
            with suppress(BlockingIOError, ValueError):  # one that was killed has told nothing
                told = json.loads(os.read(theirs, _MOST))
                rehearsal.PASSED.update({mark: tuple(notes) for mark, notes in told.items()})
        os.close(theirs)
        self.told.sendall(json.dumps({"run": run, "code": code}).encode() + b"\n")


def _become(words: list[str], told_in: str, warm: bool, rehearsed: int) -> NoReturn:
    """Be the command line with these words, in a session of its own."""
    os.setsid()
    os.environ[TOLD_IN] = told_in
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    if not warm:
        os.execv(sys.executable, [sys.executable, "-m", "robustdeploy", *words])
    sys.argv, code = ["robustdeploy", *words], 4
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    finally:
        os.write(rehearsed, json.dumps(rehearsal.PASSED).encode()[:_MOST])
        atexit._run_exitfuncs()
        # To take all that was loaded apart would cost two seconds.
        os._exit(code)


def loaded() -> bool:
    """Load what a run needs, and say whether a fork may use it: a driver of a GPU does not outlive a fork."""
    if sys.platform != "linux":
        return False
    wait_briefly_if_busy()
    if setup.device_from("auto").type != "cpu":
        return False
    for name in LOADED:
        with suppress(ImportError):  # the libraries' own modules move; the run itself says what it lacks
            importlib.import_module(name)
    # Or each collection of a run would go through all of it, and copy it.
    gc.freeze()
    return True


if __name__ == "__main__":
    # A library that is interrupted while it loads raises what it likes, and no run is there yet.
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
    Server(socket.socket(fileno=int(sys.argv[1])), loaded()).serve()
    os._exit(0)  # libraries complain of what is frozen
