"""Checkpoints: one self-verifying file each, without pickle.

A file is named by its step and the hash of its content, and appears under that name only when it is complete and on
the disk. Loading takes the newest file whose content still has its hash, so a torn or edited one is passed over.
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
from safetensors.torch import save
from torch import Tensor

from robustdeploy.core.files import atomic_write_bytes, sha256_of_file
from robustdeploy.errors import TrainingError

KEPT = 2
"""Checkpoints kept: the newest, and the one before in case the newest is damaged."""
_HASH_DIGITS = 16


@dataclass(frozen=True)
class State:
    """Everything a training needs to go on: named tensors, and plain JSON values."""

    step: int
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


def save_checkpoint(folder: Path, state: State) -> Path:
    """Write ``state``, then forget all but the newest checkpoints. Refuses values that are not finite."""
    for name, tensor in state.tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise TrainingError(
                f"{name} is not finite at step {state.step}; nothing was saved and the last healthy one is kept: "
                "lower train.lr and repeat the command"
            )
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.tensors.items()}
    content = save(tensors, metadata={"values": json.dumps({**state.values, "step": state.step}, allow_nan=False)})
    path = folder / f"step-{state.step:09d}-{_digest(content)}.safetensors"
    atomic_write_bytes(path, content)
    for old in _newest_first(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def load_checkpoint(folder: Path) -> State | None:
    """Return the newest sound checkpoint of ``folder``, or None when there is none."""
    for path in _newest_first(folder):
        if sha256_of_file(path)[:_HASH_DIGITS] == path.stem.rpartition("-")[2]:
            try:
                return _read(path)
            except (SafetensorError, KeyError, ValueError):
                continue
    return None


def _read(path: Path) -> State:
    with safe_open(path, framework="pt") as file:
        values = json.loads(file.metadata()["values"])
        return State(values.pop("step"), {name: file.get_tensor(name) for name in file.keys()}, values)  # noqa: SIM118


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_HASH_DIGITS]
