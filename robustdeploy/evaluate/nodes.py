"""Nodes: workers on a Ray cluster that share out the blocks of attacks in torch; what comes out is the same.

Every node needs this version of robustdeploy, and whatever else the net or an attack is made of. The net goes along. A
worker whose scores or gradients differ from this machine's in any bit is not used: who did a block must not matter.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import robustdeploy
from robustdeploy.attacks.protocol import input_gradient
from robustdeploy.core.archive import Arrays
from robustdeploy.core.cluster import connected, losing
from robustdeploy.core.interrupts import stop_if_interrupted
from robustdeploy.core.reading import read_bounded
from robustdeploy.core.trust import Trust
from robustdeploy.errors import EnvironmentFailure, RobustdeployError
from robustdeploy.evaluate.attack import Images, Progress
from robustdeploy.evaluate.host import HostNet, load_host_net
from robustdeploy.evaluate.workers import Job, Share
from robustdeploy.foreign import sentence
from robustdeploy.onboard.types import Bytes, Labels

_LOOK_S = 1.0
_TRIED = 8
"""Images that a worker scores before it is used."""
_MOST_BYTES = 2**34


@dataclass(frozen=True)
class Sent:
    """A net as it goes to a worker."""

    version: str
    files: Mapping[str, bytes]
    twin: str | None
    """The file among these whose torch twin is attacked."""
    device: str
    trust: Trust
    threads: int
    """Of this process: another number may round otherwise."""


def sent(folder: Path, twin: Path | None, device: str, trust: Trust) -> Sent:
    """Read a net for workers elsewhere."""
    # A net of somebody else's is a file of its own; what was held out of training is not asked for by any block.
    paths = [path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".onnx")]
    files = {f"net/{path.name}": read_bounded(path, most=_MOST_BYTES) for path in paths}
    files |= {} if twin is None else {twin.name: read_bounded(twin, most=_MOST_BYTES)}
    name = None if twin is None else twin.name
    return Sent(robustdeploy.__version__, files, name, device, trust, torch.get_num_threads())


class Worker:
    """A process on a node, with a net of its own."""

    def begin(self, given: Sent, images: Bytes, labels: Labels) -> Arrays | str:
        """Load the net; return what it says of some images, or why it cannot be used."""
        if given.version != robustdeploy.__version__:
            return f"this node has robustdeploy {robustdeploy.__version__}, and {given.version} is asked for"
        torch.set_num_threads(given.threads)
        with tempfile.TemporaryDirectory(prefix="robustdeploy-net-") as base:
            for name, content in given.files.items():
                path = Path(base) / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
            twin = None if given.twin is None else Path(base) / given.twin
            self._host = load_host_net(Path(base) / "net", given.device, given.trust, twin)
        return tried(self._host, images, labels)

    def do(self, job: Job) -> Arrays:
        """Do one block."""
        return job(self._host)


def tried(host: HostNet, images: Bytes, labels: Labels) -> Arrays:
    """Return scores and gradients of some images, to the bit."""
    arrays = {"scores": host.score(images)}
    if host.followable:
        pixels = torch.from_numpy(images).to(host.device).float() / 255
        gradient, _ = input_gradient(host.followed, pixels, torch.from_numpy(labels).to(host.device))
        arrays["gradient"] = gradient.cpu().numpy()
    return arrays


@dataclass
class Nodes:
    """Workers of a cluster, for one net after the other."""

    ray: Any
    address: str
    workers: list[Any]
    """One whose process or node is lost is not begun again: the others take its block."""

    def share(self, given: Sent, host: HostNet, test: Images, tell: Progress) -> Share:
        """Hand a net to the workers; what is returned shares jobs among those that compute as ``host`` does."""
        few = test.images[:_TRIED], test.labels[:_TRIED]
        wanted, count = tried(host, *few), len(self.workers)
        with losing(self.address):
            begun = {worker.begin.remote(given, *few): worker for worker in self.workers}
            self.workers, why = [], "every worker was lost"
            for answer in _answers(self.ray, list(begun)):
                if flaw := _flaw(self.ray, answer, wanted):
                    why = flaw
                else:
                    self.workers.append(begun[answer])
        if not self.workers:
            raise EnvironmentFailure(f"no worker of {self.address} can share this attack: {why}")
        tell(f"workers on {self.address}", len(self.workers), count)
        return self._do

    def _do(self, jobs: Mapping[str, Job]) -> Iterator[tuple[str, Arrays]]:
        with losing(self.address):
            yield from self._shared(jobs)

    def _shared(self, jobs: Mapping[str, Job]) -> Iterator[tuple[str, Arrays]]:
        """Do jobs by name; one whose worker is lost goes to another."""
        waiting, free = list(jobs), list(self.workers)
        asked: dict[Any, tuple[Any, str]] = {}
        while waiting or asked:
            while waiting and free:
                worker, name = free.pop(), waiting.pop(0)
                asked[worker.do.remote(jobs[name])] = (worker, name)
            if not asked:
                raise EnvironmentFailure(
                    f"every worker of {self.address} was lost. What was done is sealed; the same command goes on"
                )
            done, _ = self.ray.wait(list(asked), num_returns=1, timeout=_LOOK_S)
            stop_if_interrupted()
            for each in done:
                worker, name = asked.pop(each)
                try:
                    arrays = self.ray.get(each)
                except self.ray.exceptions.RayActorError:
                    self.workers.remove(worker)
                    waiting.insert(0, name)
                    continue
                except self.ray.exceptions.RayError as error:
                    if isinstance(cause := getattr(error, "cause", None), RobustdeployError):
                        raise cause from error  # as it would be told of a worker here
                    raise EnvironmentFailure(f"a worker of {self.address} failed: {_last_line(error)}") from error
                free.append(worker)
                yield name, arrays


@contextmanager
def nodes_on(address: str) -> Iterator[Nodes]:
    """Start a worker on each core of a cluster."""
    with connected(address) as ray:
        count = max(1, int(ray.cluster_resources().get("CPU", 1)))
        kind = ray.remote(num_cpus=1, max_restarts=0)(Worker)
        workers = [kind.remote() for _ in range(count)]
        try:
            yield Nodes(ray, address, list(workers))
        finally:
            with suppress(ConnectionError):
                for worker in workers:
                    ray.kill(worker)


def _flaw(ray: Any, answer: Any, wanted: Arrays) -> str:
    """Say why a worker cannot be used; nothing where it can."""
    try:
        told = ray.get(answer)
    except ray.exceptions.RayError as error:  # whatever the net, the node or its process ended in
        return _last_line(error)
    if isinstance(told, str):
        return told
    if any(not np.array_equal(array, told.get(name)) for name, array in wanted.items()):
        return "it rounds otherwise than this machine: another processor, or another torch"
    return ""


def _answers(ray: Any, left: list[Any]) -> Iterator[Any]:
    """Yield what was asked for as it is answered."""
    while left:
        done, left = ray.wait(left, num_returns=1, timeout=_LOOK_S)
        stop_if_interrupted()
        yield from done


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return sentence(lines[-1])[:300] if lines else type(error).__name__
