"""Checkpoints: one self-verifying file each, without pickle.

A file is named by its step and the hash of its content, and appears under that name only when it is complete and on
the disk. Loading takes the newest file whose content still has its hash, so a torn or edited one is passed over.
Each says which training it is of; those of another recipe or of other images are passed over too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from robustdeploy.core.files import atomic_write_bytes, sha256_of_file
from robustdeploy.errors import ArtifactError, TrainingError

KEPT = 2
"""Checkpoints kept: the newest, and the one before in case the newest is damaged."""
_HASH_DIGITS = 16


@dataclass(frozen=True)
class State:
    """Everything a training needs to go on: named tensors, and plain JSON values."""

    step: int
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]
    training: str = ""
    """Fingerprint of all that decides this training; one training never goes on from another's state."""


def save_checkpoint(folder: Path, state: State, kept: int = KEPT) -> Path:
    """Write ``state``, then forget all but ``kept`` files. Refuses values that are not finite."""
    content = state_to_bytes(state)
    # Nine digits, so that the order of names is the order of steps.
    path = folder / f"step-{state.step:09d}-{_digest(content)}.safetensors"
    atomic_write_bytes(path, content)
    _tidy(folder, path, kept)
    return path


def state_to_bytes(state: State) -> bytes:
    """Return ``state`` as the content of a safetensors file. Raises TrainingError when a value is not finite."""
    for name, tensor in state.tensors.items():
        # A resumed training would go on from a NaN for ever; the checkpoint before it is still sound.
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise TrainingError(
                f"{name} is not finite at step {state.step}, so it was not saved: give a lower train.lr, and the run a "
                "name of its own if it has one; it begins anew"
            )
    # Cloned, since safetensors refuses tensors that share memory, as tied weights do.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.tensors.items()}
    # allow_nan: JSON has no NaN, and other readers would refuse the file.
    values = json.dumps({**state.values, "step": state.step, "training": state.training}, allow_nan=False)
    return save(tensors, metadata={"values": values})


def state_from_bytes(content: bytes) -> State:
    """Return the state that ``state_to_bytes`` gave ``content`` for."""
    # The format's own header: eight bytes of length, then JSON. The library reads metadata from files alone.
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return _state(header["__metadata__"]["values"], load(content))


def _tidy(folder: Path, newest: Path, count: int) -> None:
    """Remove what is older than the kept ones, what a kill left half-written, and what claims to be newer.

    The latter was damaged, or of another training, when this one started; kept, it would push out sound ones.
    """
    before = [path for path in _newest_first(folder) if _step(path) < _step(newest)]
    kept = {newest, *before[: count - 1]}
    # The dotted ones are the temporary names that a write has before it is whole.
    for path in (*folder.glob("step-*.safetensors"), *folder.glob(".step-*.safetensors")):
        if path not in kept:
            # Several processes on one file system may sweep at once.
            path.unlink(missing_ok=True)


def load_checkpoint(folder: Path, training: str = "") -> State | None:
    """Return the newest sound checkpoint of ``training`` in ``folder``, or None when there is none."""
    for path in _newest_first(folder):
        if (state := _sound(path)) is not None and state.training == training:
            return state
    return None


def _sound(path: Path) -> State | None:
    try:
        # The whole file is read for its hash first: safetensors checks no content, so flipped bits would load as
        # weights.
        if sha256_of_file(path)[:_HASH_DIGITS] == path.stem.rpartition("-")[2]:
            return _read(path)
    # Whatever is wrong with one file, the one before it may be sound; a raise here would end the search.
    except (SafetensorError, ArtifactError, KeyError, ValueError, TypeError, RecursionError, OSError):
        return None
    return None


def _read(path: Path) -> State:
    with safe_open(path, framework="pt") as file:
        return _state(file.metadata()["values"], {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def _state(text: str, tensors: Mapping[str, Tensor]) -> State:
    values = json.loads(text)
    step, training = values.pop("step"), values.pop("training")
    return State(step, tensors, values, training)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def _step(path: Path) -> str:
    return path.stem.rpartition("-")[0]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_HASH_DIGITS]
