"""Cluster: the Ray cluster at an address, for as long as a command asks it."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Final

from robustdeploy.errors import EnvironmentFailure, ToolchainError, UsageError
from robustdeploy.foreign import sentence

HERE: Final = "here"
_RAY: Final = "ray://"


def cluster_address(word: str, what: str) -> str | None:
    """Return the address that ``--on`` says, None for this machine; ``what`` is done there. Else a UsageError."""
    if word == HERE:
        return None
    if word.startswith(_RAY) and word != _RAY:
        return word
    raise UsageError(f"--on {word}: {what} '{HERE}', or on a Ray cluster, such as {_RAY}head:10001")


def check_sharing(workers: int, on: str) -> str | None:
    """Return the cluster that shares attacks in torch, None for ``workers`` processes here; both are a UsageError."""
    if workers < 1:
        raise UsageError(f"workers is {workers}; at least one process attacks")
    address = cluster_address(on, "attacks in torch are run")
    if address is not None and workers > 1:
        raise UsageError(f"--workers {workers} is for attacks that are run here; {on} has a worker on each free core")
    return address


@contextmanager
def connected(address: str) -> Iterator[ModuleType]:
    """Connect to the cluster at ``address``; yields the module ``ray``."""
    try:
        import ray
    except ImportError as error:
        raise ToolchainError("--on ray:// needs Ray: pip install 'robustdeploy[ray]'") from error
    before = signal.getsignal(signal.SIGTERM)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of is in its error
            ray.init(address, log_to_driver=False, configure_logging=False)
    except Exception as error:  # a client that cannot connect raises one of a dozen kinds
        raise EnvironmentFailure(f"no Ray cluster answers at {address}: {sentence(str(error))[:300]}") from error
    finally:
        # Ray takes this signal for itself, and would leave the program where we end what was begun.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
    try:
        with losing(address):
            yield ray
    finally:
        ray.shutdown()


@contextmanager
def losing(address: str) -> Iterator[None]:
    """Tell a connection that breaks off as what it is."""
    try:
        yield
    except ConnectionError as error:
        raise EnvironmentFailure(
            f"the Ray cluster at {address} was lost. What was done is kept; the same command goes on from there"
        ) from error
