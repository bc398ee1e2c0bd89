"""Here: the runs of a series on this machine, one after another or a few side by side, each in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from robustdeploy.core.interrupts import interrupted, stop_if_interrupted
from robustdeploy.foreign import sentence
from robustdeploy.series.forks import Forks
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
        queue, running, begun = Queue(series, jobs), dict[int, Job](), 0
        with closing(Forks(series.root, self._environment())) as forks:
            while queue or running:
                if not running:
                    stop_if_interrupted()
                while not interrupted() and len(running) < self.at_once and (job := queue.ready()) is not None:
                    begun += 1
                    say(f"run {begun} of {len(jobs)}, {job.name}")
                    running[self._started(series, job, forks)] = job
                for number, code in _ended(series, forks, running).items():
                    job = running.pop(number)
                    queue.ended(job)
                    yield job, Ended(code, _told(series, job))
                    yield from ((each, not_begun(need)) for each, need in queue.hopeless())

    def _environment(self) -> dict[str, str]:
        # A net's own code may lie where the command was given.
        paths = [str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])]
        threads = {} if self.at_once == 1 else _threads(self.at_once)
        return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(paths)}

    def _started(self, series: Series, job: Job, forks: Forks) -> int:
        # Lines of several runs at once would be told apart by nobody.
        quiet = ["--quiet"] if self.quiet or self.at_once > 1 else []
        _told(series, job)  # of an earlier call
        return forks.start([*series.words(job, series.root.absolute()), *quiet], _told_in(series, job).absolute())


def _ended(series: Series, forks: Forks, running: Mapping[int, Job]) -> dict[int, int]:
    """Wait until a run has ended; a signal is handed on to all of them, and raised here once they have stopped."""
    asked, codes = False, dict[int, int]()
    while not codes or (asked and len(codes) < len(running)):
        codes |= forks.ended(_LOOK_S)
        if interrupted() and not asked:
            forks.interrupt()
            asked = True
    if asked:
        for job in running.values():
            _told(series, job)  # that it was interrupted is said here
        stop_if_interrupted()
    return codes


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
