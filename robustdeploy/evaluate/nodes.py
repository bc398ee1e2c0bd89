"""Nodes: workers on a Ray cluster that share out the blocks of attacks in torch; what comes out is the same.

Every node needs this version of robustdeploy, and whatever else the net or an attack is made of. The net goes along. A
worker whose scores or gradients differ from this machine's in any bit is not used: who did a block must not matter.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import robustdeploy
from robustdeploy.attacks.protocol import input_gradient
from robustdeploy.core.archive import Arrays
from robustdeploy.core.cluster import connected
from robustdeploy.core.interrupts import stop_if_interrupted
from robustdeploy.core.reading import read_bounded
from robustdeploy.core.trust import Trust
from robustdeploy.errors import EnvironmentFailure
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


@contextmanager
def sharing_on(address: str, given: Sent, host: HostNet, test: Images, tell: Progress) -> Iterator[Share]:
    """Start a worker on each free core of a cluster, of which those share that compute as ``host`` does."""
    with connected(address) as ray:
        count = max(1, int(ray.cluster_resources().get("CPU", 1)))
        # One whose process or node is lost is not begun again: the others take its block.
        kind = ray.remote(num_cpus=1, max_restarts=0)(Worker)
        workers = [kind.remote() for _ in range(count)]
        few = test.images[:_TRIED], test.labels[:_TRIED]
        fit = _fit(ray, address, {worker.begin.remote(given, *few): worker for worker in workers}, tried(host, *few))
        tell(f"workers on {address}", len(fit), count)
        try:
            yield partial(_shared, _Team(ray, address, fit))
        finally:
            for worker in workers:
                ray.kill(worker)


def _fit(ray: Any, address: str, begun: dict[Any, Any], wanted: Arrays) -> list[Any]:
    """Return the workers that compute the same; none is an EnvironmentFailure."""
    fit, why = [], "no node has a free core"
    for answer in _answers(ray, begun):
        try:
            told = ray.get(answer)
        except Exception as error:  # whatever the net, the node or its process ended in
            why = _last_line(error)
            continue
        if isinstance(told, str):
            why = told
        elif any(not np.array_equal(array, told.get(name)) for name, array in wanted.items()):
            why = "it rounds otherwise than this machine: another processor, or another torch"
        else:
            fit.append(begun[answer])
    if not fit:
        raise EnvironmentFailure(f"no worker of {address} can share this attack: {why}")
    return fit


def _answers(ray: Any, asked: Mapping[Any, Any]) -> Iterator[Any]:
    """Yield what was asked for as it is answered."""
    left = list(asked)
    while left:
        done, left = ray.wait(left, num_returns=1, timeout=_LOOK_S)
        stop_if_interrupted()
        yield from done


@dataclass
class _Team:
    ray: Any
    address: str
    free: list[Any] = field(default_factory=list)


def _shared(team: _Team, jobs: Mapping[str, Job]) -> Iterator[tuple[str, Arrays]]:
    """Do jobs by name; one whose worker is lost goes to another."""
    ray, waiting = team.ray, list(jobs)
    asked: dict[Any, tuple[Any, str]] = {}
    while waiting or asked:
        while waiting and team.free:
            worker, name = team.free.pop(), waiting.pop(0)
            asked[worker.do.remote(jobs[name])] = (worker, name)
        if not asked:
            raise EnvironmentFailure(
                f"every worker of {team.address} was lost. What was done is sealed; the same command goes on from there"
            )
        done, _ = ray.wait(list(asked), num_returns=1, timeout=_LOOK_S)
        stop_if_interrupted()
        for each in done:
            worker, name = asked.pop(each)
            try:
                arrays = ray.get(each)
            except ray.exceptions.RayActorError:
                waiting.insert(0, name)
                continue
            except ray.exceptions.RayError as error:
                raise EnvironmentFailure(f"a worker of {team.address} failed: {_last_line(error)}") from error
            team.free.append(worker)
            yield name, arrays


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return sentence(lines[-1])[:300] if lines else type(error).__name__
