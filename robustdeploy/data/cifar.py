"""Read CIFAR-10 and CIFAR-100 in the form for Python (through torchvision) and in the binary form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from robustdeploy.core.torchvision_package import part_of_torchvision
from robustdeploy.data.decode import resized
from robustdeploy.data.images import Images, Progress, Source, numbered
from robustdeploy.errors import DataError


@dataclass(frozen=True)
class Cifar:
    """What sets one of the two apart."""

    name: str
    title: str
    dataset: Literal["CIFAR10", "CIFAR100"]
    """Name of torchvision's reader."""
    python: str
    """Folder of the form for Python."""
    binary: str
    """Folder of the binary form."""
    files: tuple[tuple[str, ...], tuple[str, ...]]
    """Binary files of the training and the test set."""
    label_bytes: int
    """Bytes before the pixels; the last of them is the class."""
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def layout(self) -> str:
        """Say what may be in the folder."""
        return f"a folder that holds {self.python}/ or {self.binary}/ as they come in the archives"


def cifar_source(cifar: Cifar, folder: Path, size: int | None) -> Source | None:
    """Return the source in ``folder``, or in its parent where ``folder`` is the inner one; None if there is none."""
    for place in (folder, folder.parent):
        for name, read in ((cifar.python, _read_python), (cifar.binary, _read_binary)):
            if (place / name).is_dir() and (place == folder or folder.name == name):
                side = size or 32
                return Source(
                    name=cifar.title,
                    classes=cifar.classes,
                    image_shape=(3, side, side),
                    mirror=True,
                    train=partial(read, cifar, place, 0, size),
                    test=partial(read, cifar, place, 1, size),
                    mean=cifar.mean,
                    std=cifar.std,
                )
    return None


def _read_python(
    cifar: Cifar, root: Path, part: Literal[0, 1], size: int | None, progress: Progress | None = None
) -> Images:
    """Read through torchvision, which unpickles only files whose checksum is that of the original archive."""
    datasets = part_of_torchvision("datasets")
    try:
        found = getattr(datasets, cifar.dataset)(root, train=part == 0, download=False)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"{(root / cifar.python).absolute()} is not {cifar.title} as published: {error}. "
            f"Every file must be there, with its original checksum"
        ) from error
    return _images(found.data.transpose(0, 3, 1, 2), found.targets, size, progress)


def _read_binary(
    cifar: Cifar, root: Path, part: Literal[0, 1], size: int | None, progress: Progress | None = None
) -> Images:
    rows = np.concatenate([_rows(cifar, root / cifar.binary / name) for name in cifar.files[part]])
    # CIFAR-100 has the coarse label first and the fine one behind it.
    labels = rows[:, cifar.label_bytes - 1]
    return _images(rows[:, cifar.label_bytes :].reshape(-1, 3, 32, 32), labels.tolist(), size, progress)


def _rows(cifar: Cifar, path: Path) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    try:
        flat = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"cannot read {path.absolute()}: {error.strerror}; {cifar.title} needs it") from error
    # 3 channels of 32×32 pixels.
    length = cifar.label_bytes + 3072
    if not flat.size or flat.size % length:
        raise DataError(f"{path.absolute()} has {flat.size} bytes, no multiple of {length}: it is damaged")
    rows = flat.reshape(-1, length)
    if (highest := int(rows[:, cifar.label_bytes - 1].max())) >= len(cifar.classes):
        raise DataError(f"{path.absolute()} names class {highest}; {cifar.title} has {len(cifar.classes)} classes")
    return rows


def _images(
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    labels: Sequence[int],
    size: int | None,
    progress: Progress | None,
) -> Images:
    import torch

    if progress is not None:
        progress(len(labels), len(labels))
    return numbered(resized(torch.from_numpy(np.ascontiguousarray(pixels)), size), torch.tensor(labels))
