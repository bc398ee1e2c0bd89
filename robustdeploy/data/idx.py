"""Read MNIST and Fashion-MNIST in their idx files, through torchvision."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from robustdeploy.core.torchvision_package import part_of_torchvision
from robustdeploy.data.decode import resized
from robustdeploy.data.images import Images, Progress, Source, needed, numbered
from robustdeploy.errors import DataError


@dataclass(frozen=True)
class Idx:
    """What sets one of the two apart."""

    name: str
    title: str
    dataset: Literal["MNIST", "FashionMNIST"]
    """Name of torchvision's reader, and of the folder that it reads."""
    classes: tuple[str, ...]
    mirror: bool
    mean: float
    std: float

    @property
    def layout(self) -> str:
        """Say what must be in the folder."""
        return f"a folder that holds {self.dataset}/raw/train-images-idx3-ubyte and its three siblings, unpacked"


def idx_source(idx: Idx, path: Path | None, size: int | None) -> Source:
    """Return the source in ``path``; the inner folders may be named as well."""
    folder = needed(path, idx.name, idx.layout).absolute()
    # Users point at any of the three folders inside each other; none of them is a mistake worth an error.
    for root in (folder, folder.parent, folder.parent.parent):
        if (root / idx.dataset / "raw").is_dir() and (root / idx.dataset / "raw").is_relative_to(folder):
            break
    else:
        raise DataError(f"data set '{idx.name}': {folder} is not {idx.layout}")
    side = size or 28
    return Source(
        name=idx.title,
        classes=idx.classes,
        image_shape=(1, side, side),
        mirror=idx.mirror,
        train=partial(_read, idx, root, True, size),
        test=partial(_read, idx, root, False, size),
        mean=(idx.mean,),
        std=(idx.std,),
    )


def _read(idx: Idx, root: Path, train: bool, size: int | None, progress: Progress | None = None) -> Images:
    datasets = part_of_torchvision("datasets")
    try:
        found = getattr(datasets, idx.dataset)(root, train=train, download=False)
        images, labels = found.data[:, None], found.targets
    except (RuntimeError, OSError, ValueError, AssertionError, IndexError) as error:
        raise DataError(f"cannot read {root / idx.dataset / 'raw'}: {error}; expected {idx.layout}") from error
    # torchvision checks no sizes against each other, and a file cut short may still be read.
    if len(images) != len(labels) or tuple(images.shape[1:]) != (1, 28, 28) or int(labels.max()) > 9:
        raise DataError(
            f"{root / idx.dataset / 'raw'} holds {tuple(images.shape)} pixels and {len(labels)} labels up to "
            f"{int(labels.max())}; {idx.title} has as many labels, 28×28 pixels and 10 classes"
        )
    if progress is not None:
        progress(len(images), len(images))
    return numbered(resized(images, size), labels)
