"""Cluster: the runs of a sweep on a Ray cluster, side by side, each brought back whole.

Every node needs this very version of robustdeploy, and the data set where the recipe names it. What lies here of a run
goes along, so that it resumes; one that is not whole comes back too, and one whose node is lost begins anew.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import robustdeploy
from robustdeploy.core.files import storage_errors
from robustdeploy.core.interrupts import stop_if_interrupted
from robustdeploy.engine.overview import REPORT
from robustdeploy.engine.verify import verify_run
from robustdeploy.errors import ArtifactError, EnvironmentFailure, RobustdeployError, ToolchainError
from robustdeploy.foreign import sentence
from robustdeploy.sweep.cells import Cell
from robustdeploy.sweep.folder import SweepFolder
from robustdeploy.sweep.place import Ended, Say

_LOOK_S = 1.0
_PARTING_S = 20.0
_TAIL = 2000
"""Characters of what a run said last that come back with it."""


@dataclass(frozen=True)
class Cluster:
    """One task for each run; ``cpus`` of a node are kept for it."""

    address: str
    cpus: float = 1.0

    def run(self, folder: SweepFolder, cells: Sequence[Cell], say: Say) -> Iterator[tuple[Cell, Ended]]:
        """Make the runs as nodes are free, and put each into the sweep's folder as it ends."""
        if not cells:
            return
        ray = _ray()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what it warns of is in its error
                ray.init(self.address, log_to_driver=False, configure_logging=False)
        except Exception as error:  # a client that cannot connect raises one of a dozen kinds
            raise EnvironmentFailure(
                f"no Ray cluster answers at {self.address}: {sentence(str(error))[:300]}"
            ) from error
        try:
            # Once for all tasks: a task of an older installation would make another net under the same name.
            task = ray.remote(num_cpus=self.cpus, max_retries=0)(made_on_a_node)
            files = folder.files()
            asked = {}
            for cell in cells:
                words, before = folder.words(cell, Path()), _packed(folder, cell)
                asked[task.remote(robustdeploy.__version__, files, words, cell.name, before)] = cell
            say(f"sweep: {len(cells)} runs are with {self.address}")
            yield from self._gathered(ray, asked, folder, say)
        finally:
            ray.shutdown()

    def _gathered(
        self, ray: Any, asked: dict[Any, Cell], folder: SweepFolder, say: Say
    ) -> Iterator[tuple[Cell, Ended]]:
        while asked:
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
                cell = asked.pop(each)
                yield cell, _brought_back(ray, each, folder, cell)
                say(f"sweep: {cell.name} came back, {len(asked)} to go")


def _brought_back(ray: Any, task: Any, folder: SweepFolder, cell: Cell) -> Ended:
    try:
        code, said, content = ray.get(task)
    except Exception as error:  # whatever a node, its network or the task itself ended in
        return Ended(4, f"its task failed: {sentence(str(error).strip().splitlines()[-1] if str(error) else '')[:300]}")
    if content is not None:
        try:
            unpacked(content, folder, cell)
        except RobustdeployError as error:
            return Ended(error.exit_code, f"what came back is not believed: {error}")
    return Ended(code, f"it ended with exit code {code}: {sentence(said[-300:])}")


def made_on_a_node(
    version: str, files: Mapping[str, bytes], words: Sequence[str], name: str, before: bytes | None
) -> tuple[int, str, bytes | None]:
    """Make one run on this node; return its exit code, the end of what it said, and the run's folder packed."""
    if version != robustdeploy.__version__:
        return 4, f"this node has robustdeploy {robustdeploy.__version__}, and {version} is asked for", None
    with tempfile.TemporaryDirectory(prefix="robustdeploy-sweep-") as base:
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


def _packed(folder: SweepFolder, cell: Cell) -> bytes | None:
    run = folder.run_of(cell)
    return _content(run, cell.name) if run.is_dir() else None


def _content(run: Path, name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(run, name)
    return buffer.getvalue()


def _extracted(content: bytes, root: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        # `data` refuses links and names that lead out of the folder.
        archive.extractall(root, filter="data")


def unpacked(content: bytes, folder: SweepFolder, cell: Cell) -> None:
    """Put a run into the sweep's folder, all of it or nothing; one that has a report has to be as its seals say."""
    place = folder.run_of(cell)
    with storage_errors(place), tempfile.TemporaryDirectory(prefix=".coming-", dir=folder.root) as coming:
        try:
            _extracted(content, Path(coming))
        except (tarfile.TarError, EOFError) as error:
            raise ArtifactError(f"the packed run {cell.name} cannot be read: {error}") from error
        run = Path(coming) / cell.name
        if (run / REPORT).exists() and (problems := verify_run(run)):
            raise ArtifactError(*problems)
        if place.exists():
            place.rename(Path(coming) / "before")
        shutil.move(run, place)


def _ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise ToolchainError("--on ray:// needs Ray: pip install 'robustdeploy[ray]'") from error
    return ray
