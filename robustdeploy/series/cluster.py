"""Cluster: the runs of a series on a Ray cluster, side by side, each brought back whole.

Every node needs this very version of robustdeploy, and the data set where the recipe names it. What lies here of a run
goes along, so that it resumes; one that is not whole comes back too. One whose worker or node is lost begins anew.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import robustdeploy
from robustdeploy.core.cluster import connected
from robustdeploy.core.files import storage_errors
from robustdeploy.core.interrupts import stop_if_interrupted
from robustdeploy.engine.overview import REPORT
from robustdeploy.engine.verify import verify_run
from robustdeploy.errors import ArtifactError, RobustdeployError
from robustdeploy.foreign import sentence
from robustdeploy.series.place import Ended, not_begun
from robustdeploy.series.series import Job, Queue, Say, Series

_LOOK_S = 1.0
_PARTING_S = 20.0
_TAIL = 2000
"""Characters of what a run said last that come back with it."""


@dataclass(frozen=True)
class Cluster:
    """One task for each run; ``cpus`` of a node are kept for it."""

    address: str
    cpus: float = 1.0

    def run(self, series: Series, jobs: Sequence[Job], say: Say) -> Iterator[tuple[Job, Ended]]:
        """Make the runs as nodes are free, and put each into the series' folder as it ends."""
        if not jobs:
            return
        with connected(self.address) as ray:
            # A task whose worker or node is lost is begun once more, and with it the run: nothing of it came back.
            task = ray.remote(num_cpus=self.cpus, max_retries=2)(made_on_a_node)
            yield from self._gathered(ray, task, series, Queue(series, jobs), say)

    def _gathered(self, ray: Any, task: Any, series: Series, queue: Queue, say: Say) -> Iterator[tuple[Job, Ended]]:
        asked: dict[Any, Job] = {}
        while queue or asked:
            while (job := queue.ready()) is not None:
                words, before = series.words(job, Path()), _packed(series, job)
                # Its files only now: some are of jobs that have just ended.
                asked[task.remote(robustdeploy.__version__, series.files(job), words, job.name, before)] = job
                say(f"{job.name} is with {self.address}")
            done, _ = ray.wait(list(asked), num_returns=1, timeout=_LOOK_S)
            try:
                stop_if_interrupted()
            except RobustdeployError:
                for each in asked:
                    ray.cancel(each)
                # A task that is told ends its run; one whose worker is killed would leave it behind.
                ray.wait(list(asked), num_returns=len(asked), timeout=_PARTING_S)
                raise
            for each in done:
                job = asked.pop(each)
                ended = _brought_back(ray, each, series, job)
                queue.ended(job)
                yield job, ended
                yield from ((other, not_begun(need)) for other, need in queue.hopeless())
                say(f"{job.name} came back, {len(asked) + len(queue)} to go")


def _brought_back(ray: Any, task: Any, series: Series, job: Job) -> Ended:
    try:
        code, said, content = ray.get(task)
    except Exception as error:  # whatever a node, its network or the task itself ended in
        return Ended(4, f"its task failed: {sentence(str(error).strip().splitlines()[-1] if str(error) else '')[:300]}")
    if content is not None:
        try:
            unpacked(content, series, job)
        except RobustdeployError as error:
            return Ended(error.exit_code, f"what came back is not believed: {error}")
    return Ended(code, f"it ended with exit code {code}: {sentence(said[-300:])}")


def made_on_a_node(
    version: str, files: Mapping[str, bytes], words: Sequence[str], name: str, before: bytes | None
) -> tuple[int, str, bytes | None]:
    """Make one run on this node; return its exit code, the end of what it said, and the run's folder packed."""
    if version != robustdeploy.__version__:
        return 4, f"this node has robustdeploy {robustdeploy.__version__}, and {version} is asked for", None
    with tempfile.TemporaryDirectory(prefix="robustdeploy-series-") as base:
        root = Path(base)
        for path, content in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        if before is not None:
            _extracted(before, root)
        done = subprocess.run(
            [sys.executable, "-m", "robustdeploy", *words, "--quiet"],
            cwd=root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        run = root / name
        return done.returncode, done.stderr[-_TAIL:], _content(run, name) if run.is_dir() else None


def _packed(series: Series, job: Job) -> bytes | None:
    run = series.root / job.name
    return _content(run, job.name) if run.is_dir() else None


def _content(run: Path, name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(run, name)
    return buffer.getvalue()


def _extracted(content: bytes, root: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        # `data` refuses links and names that lead out of the folder.
        archive.extractall(root, filter="data")


def unpacked(content: bytes, series: Series, job: Job) -> None:
    """Put a run into the series' folder, all of it or nothing; one that has a report has to be as its seals say."""
    place = series.root / job.name
    with storage_errors(place), tempfile.TemporaryDirectory(prefix=".coming-", dir=series.root) as coming:
        try:
            _extracted(content, Path(coming))
        except (tarfile.TarError, EOFError) as error:
            raise ArtifactError(f"the packed run {job.name} cannot be read: {error}") from error
        run = Path(coming) / job.name
        if (run / REPORT).exists() and (problems := verify_run(run)):
            raise ArtifactError(*problems)
        if place.exists():
            place.rename(Path(coming) / "before")
        shutil.move(run, place)
