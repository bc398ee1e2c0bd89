"""Workers: processes of this machine that share out the blocks of attacks in torch; what comes out is the same."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial

import torch

from robustdeploy.core.archive import Arrays
from robustdeploy.core.interrupts import end_with_parent
from robustdeploy.errors import EnvironmentFailure
from robustdeploy.evaluate.host import HostNet

Job = Callable[[HostNet], Arrays]
"""Does one block with the net that is attacked; workers take only what can be pickled."""
Share = Callable[[Mapping[str, Job]], Iterator[tuple[str, Arrays]]]
"""Does jobs by name, and yields what each gave as it ends."""

# Of a worker's process: a net is loaded once and not for each block.
_loaded: list[HostNet] = []


def in_turn(host: HostNet, jobs: Mapping[str, Job]) -> Iterator[tuple[str, Arrays]]:
    """Do jobs in this process, one after the other."""
    yield from ((name, job(host)) for name, job in jobs.items())


@contextmanager
def sharing(count: int, load: Callable[[], HostNet], host: HostNet) -> Iterator[Share]:
    """Start ``count`` processes, each with a net of its own that ``load`` gives; one is this process with ``host``."""
    if count == 1:
        yield partial(in_turn, host)
        return
    # As many threads as here: another number may round otherwise.
    begin = partial(_begin, load, torch.get_num_threads())
    # Spawned and not forked: torch's threads do not survive a fork.
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), begin)
    try:
        yield partial(_shared, pool)
    finally:
        pool.shutdown(cancel_futures=True)


def _shared(pool: ProcessPoolExecutor, jobs: Mapping[str, Job]) -> Iterator[tuple[str, Arrays]]:
    try:
        asked: dict[Future[Arrays], str] = {pool.submit(_done, job): name for name, job in jobs.items()}
        for each in as_completed(asked):
            yield asked[each], each.result()
    except BrokenProcessPool as error:
        raise EnvironmentFailure(
            "a worker process ended before its block was done: it was killed, or memory ran out. What was done is "
            "sealed; the same command goes on from there, with fewer --workers if memory is short"
        ) from error


def _begin(load: Callable[[], HostNet], threads: int) -> None:
    end_with_parent()
    # Ctrl-C reaches all processes of a terminal; this one is told by the first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    _loaded.append(load())


def _done(job: Job) -> Arrays:
    return job(_loaded[0])
