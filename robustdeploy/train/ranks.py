"""Ranks: what several processes of one training agree on. A single process is rank 0 of 1.

Started by ``torchrun``; gradients are averaged by DistributedDataParallel (see objective.py), all else goes through
the few calls below, each of which every process makes at the same moment.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from robustdeploy.errors import UsageError
from robustdeploy.train.launch import launched

DONE = "done"


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Join the processes that were started together, if any, for the block: NCCL between GPUs, gloo between CPUs."""
    # Whoever has joined already, such as a user's own program, also ends it.
    if not launched() or dist.is_initialized():
        yield
        return
    # DistributedDataParallel imports it; imported after the group was made, it holds the group to the very end.
    import torch._dynamo

    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        # The group's threads end with the last reference to it. One that lets go of a tensor while the interpreter
        # shuts down aborts the process, after all its work was done.
        gc.collect()
        dist.destroy_process_group()


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number; rank 0 alone writes files and talks."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_device(name: str) -> str:
    """Return the device of this process where ``name`` leaves the choice: each its own GPU of the machine."""
    if launched() and name in ("auto", "cuda") and torch.cuda.is_available():
        # The rank on this machine: the global one counts over all of them and names no GPU here.
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}"
    return name


def check_batch(batch_size: int, images: int) -> None:
    """Refuse a batch that cannot be shared out equally; fewer ``images`` than that are one batch."""
    if images < batch_size and images % world():
        raise UsageError(
            f"there are {images} training images, fewer than train.batch_size, and {world()} processes cannot share "
            f"them equally; start a number of processes that divides them, or set train.batch_size to at most {images}"
        )
    if images >= batch_size and batch_size % world():
        raise UsageError(
            f"train.batch_size is {batch_size}, which {world()} processes cannot share equally; "
            f"start a number of them that divides it, or set train.batch_size to a multiple of {world()}"
        )


def check_alone() -> None:
    """Refuse several processes, which average the gradients of one loss, for an objective that has two."""
    if world() > 1:
        raise UsageError(
            "a task with a loss of the masks' own, such as 'anp-vs', trains by one process where a pruner has masks to "
            f"train, and {world()} were started; start it without torchrun"
        )


def mean(numbers: Tensor) -> Tensor:
    """Average ``numbers`` over all processes; every one gets the same bits."""
    if world() > 1:
        dist.all_reduce(numbers)
        numbers /= world()
    return numbers


def from_first(values: Tensor) -> Tensor:
    """Return rank 0's ``values`` on every process: what is decided by them is decided alike."""
    if world() > 1:
        dist.broadcast(values, 0)
    return values


def announce(work: str) -> None:
    """Tell those that follow which work comes next; DONE lets them go."""
    shared(work.encode(), _device())


def announced() -> str:
    """Wait for what rank 0 announces."""
    return (shared(None, _device()) or b"").decode()


def _device() -> torch.device:
    """Return a device that the processes can exchange tensors on."""
    return torch.device("cuda" if dist.is_initialized() and dist.get_backend() == "nccl" else "cpu")


def shared(content: bytes | None, device: torch.device) -> bytes | None:
    """Return what rank 0 holds, on every process."""
    if world() == 1:
        return content
    # Broadcast needs equal shapes everywhere, so the length goes first; −1 tells nothing from an empty content.
    size = torch.tensor([-1 if content is None else len(content)], device=device)
    dist.broadcast(size, 0)
    if (length := int(size)) < 0:
        return None
    data = torch.empty(length, dtype=torch.uint8, device=device)
    if rank() == 0:
        # Bytes are read-only memory, of which torch warns; and warnings are errors in tests.
        data.copy_(torch.frombuffer(bytearray(content or b""), dtype=torch.uint8))
    dist.broadcast(data, 0)
    return data.cpu().numpy().tobytes()


def gathered(part: Tensor) -> Tensor:
    """Return the parts of all processes one behind the other, in the order of ranks, on every process."""
    if world() == 1:
        return part
    parts = [torch.empty_like(part) for _ in range(world())]
    dist.all_gather(parts, part.contiguous())
    return torch.cat(parts)


def own_part(whole: Tensor) -> Tensor:
    """Return this process's equal part of ``whole``: the inverse of ``gathered``."""
    return whole.tensor_split(world())[rank()]
