"""Images with labels and ids, and the Source that reads them.

A source is found without torch, so that a wrong folder is told at once; reading its images loads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from robustdeploy.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Progress = Callable[[int, int], None]
"""Called with the images done and all there are, from one thread."""


@dataclass(frozen=True)
class Reading:
    """What became of the files of a data set on the way into a tensor."""

    unreadable: tuple[str, ...] = ()
    """One sentence per file that was left out."""
    changes: Mapping[str, int] = field(default_factory=dict)
    """How many images were changed in which way, or files passed over, beside being decoded and resized."""


def pixels(images: Tensor) -> Tensor:
    """Turn 8-bit images into what a net reads: float32 in [0, 1], of the same shape and on the same device."""
    return images.float() / 255


@dataclass(frozen=True)
class Images:
    """Images uint8 N×C×H×W, labels int64, and ids int64: the place of each in the set that it was read from."""

    images: Tensor
    labels: Tensor
    ids: Tensor
    groups: Tensor | None = None
    """Images of one group (frames of one scene) are alike and must not be on two sides of a split; int64."""
    reading: Reading = Reading()
    """What became of the files, where images were read from files; a selection of images does not tell."""

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, index: Tensor) -> Images:
        """Return the images at ``index`` (places or a mask) with their own ids."""
        groups = None if self.groups is None else self.groups[index]
        return Images(self.images[index], self.labels[index], self.ids[index], groups)

    def first(self, n: int) -> Images:
        """Return the first ``n`` images, or all if there are fewer."""
        import torch

        return self.select(torch.arange(min(n, len(self)), device=self.labels.device))

    def to(self, device: torch.device) -> Images:
        """Return the images on ``device``."""
        groups = None if self.groups is None else self.groups.to(device)
        return Images(self.images.to(device), self.labels.to(device), self.ids.to(device), groups)


def numbered(
    images: Tensor,
    labels: Tensor,
    groups: Tensor | None = None,
    ids: Tensor | None = None,
    reading: Reading = Reading(),
) -> Images:
    """Return whole sets as Images with ids 0, 1, 2 …, or with their own."""
    import torch

    if not len(images):
        raise DataError("the data set is empty")
    places = torch.arange(len(labels)) if ids is None else ids
    return Images(images.contiguous(), labels.to(torch.int64), places, groups, reading)


class Read(Protocol):
    """Reads one part of a data set when called."""

    def __call__(self, progress: Progress | None = None) -> Images:
        """Read all images of the part; what is wrong with it is a DataError, or for single files, in ``reading``."""
        ...


@dataclass(frozen=True)
class Source:
    """A data set that was found; nothing is decoded before ``train`` or ``test`` is called."""

    name: str
    """As it should be called in a report."""
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    """C, H, W."""
    mirror: bool
    """Whether a mirrored image still shows its class."""
    train: Read
    test: Read
    """Read by evaluation only."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    """Per channel, in pixels of [0, 1]; None where they must be computed from the training images."""
    count_test: Callable[[], int] | None = None
    """Counts the test images without decoding them, where that is quicker than reading them."""

    @property
    def test_images(self) -> int:
        """How many test images there are."""
        return len(self.test()) if self.count_test is None else self.count_test()

    @property
    def shift(self) -> int:
        """Pixels by which an image may be moved to augment it: an eighth of its side, 4 at 32 pixels."""
        # The crops of 4 pixels that are usual on CIFAR's 32 (He et al., CVPR 2016, section 4.2), in proportion.
        return min(self.image_shape[1:]) // 8


class DataPlugIn(Protocol):
    """What a data set plug-in is: it looks at ``path`` and says what is there."""

    def __call__(self, path: Path | None, size: int | None) -> Source:
        """Return the source at ``path``, its images resized to ``size``×``size`` if given, or raise DataError."""
        ...


def needed(path: Path | None, name: str, layout: str) -> Path:
    """Return ``path`` if it is a folder; else say which ``layout`` the data set ``name`` expects there."""
    if path is None:
        raise DataError(f"data set '{name}' needs data.path: {layout}")
    if not path.exists():
        raise DataError(f"data set '{name}': {path.absolute()} does not exist; expected {layout}")
    if not path.is_dir():
        packed = ": unpack it and" if path.suffix in (".gz", ".tgz", ".zip", ".tar", ".xz") else ":"
        raise DataError(f"data set '{name}': {path.absolute()} is a file, not a folder{packed} give {layout}")
    return path
