"""Here: the runs of a series on this machine, one after another or a few side by side, each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustdeploy.core.interrupts import interrupted, stop_if_interrupted
from robustdeploy.errors import TOLD_IN
from robustdeploy.foreign import sentence
from robustdeploy.series.place import Ended, not_begun
from robustdeploy.series.series import Job, Queue, Say, Series

_LOOK_S = 0.1


@dataclass(frozen=True)
class Here:
    """Side by side, two runs on the same cores disturb each other's latency; so there is one at a time unless asked."""

    quiet: bool = False
    at_once: int = 1

    def run(self, series: Series, jobs: Sequence[Job], say: Say) -> Iterator[tuple[Job, Ended]]:
        """Make the runs in their order; what a run says goes to this process's stderr."""
        queue, running, begun = Queue(series, jobs), dict[Job, subprocess.Popen[bytes]](), 0
        while queue or running:
            stop_if_interrupted()
            while len(running) < self.at_once and (job := queue.ready()) is not None:
                begun += 1
                say(f"run {begun} of {len(jobs)}, {job.name}")
                running[job] = self._started(series, job)
            for job in self._ended(series, running):
                code = running.pop(job).returncode
                queue.ended(job)
                yield job, Ended(code, _told(series, job))
                yield from ((each, not_begun(need)) for each, need in queue.hopeless())

    def _started(self, series: Series, job: Job) -> subprocess.Popen[bytes]:
        # Lines of several runs at once would be told apart by nobody.
        quiet = ["--quiet"] if self.quiet or self.at_once > 1 else []
        _told(series, job)  # of an earlier call
        # A net's own code may lie where the command was given.
        paths = [str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])]
        threads = {} if self.at_once == 1 else _threads(self.at_once)
        return subprocess.Popen(
            [sys.executable, "-m", "robustdeploy", *series.words(job, series.root.absolute()), *quiet],
            cwd=series.root,
            env={
                **os.environ,
                **threads,
                TOLD_IN: str(_told_in(series, job).absolute()),
                "PYTHONPATH": os.pathsep.join(paths),
            },
            stdout=subprocess.DEVNULL,
            # Of its own, so that Ctrl-C reaches it once and from here alone: a second signal would end it at once.
            start_new_session=True,
        )

    def _ended(self, series: Series, running: dict[Job, subprocess.Popen[bytes]]) -> list[Job]:
        """Wait until a run has ended; a signal is handed on to all of them, and raised here once they have stopped."""
        asked = False
        while not (ended := [job for job, process in running.items() if process.poll() is not None]):
            if interrupted() and not asked:
                for process in running.values():
                    process.send_signal(signal.SIGINT)
                asked = True
            time.sleep(_LOOK_S)
        if asked or interrupted():
            for job, process in running.items():
                if process.poll() is None and not asked:
                    process.send_signal(signal.SIGINT)
                process.wait()
                _told(series, job)  # that it was interrupted is said here
            stop_if_interrupted()
        return ended


def _told_in(series: Series, job: Job) -> Path:
    """Return the file that a run's error is written to, for the series to repeat it."""
    return series.root / f".told-{job.name}"


def _told(series: Series, job: Job) -> str:
    """Take a run's error out of its file; nothing where it ended without one, or was killed."""
    path = _told_in(series, job)
    try:
        text = path.read_text(encoding="utf-8")
        path.unlink()
    except (OSError, ValueError):
        return ""
    return sentence(" ".join(text.split()))[:1000]


def _threads(at_once: int) -> dict[str, str]:
    """Share the cores out: a pool of threads for all of them in each run is slower than one thread."""
    share = max(1, (os.cpu_count() or 1) // at_once)
    return {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(share)}
