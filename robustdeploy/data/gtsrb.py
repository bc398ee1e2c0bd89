"""GTSRB: 43 German traffic signs in colour (Stallkamp et al. 2012), from a folder of yours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from robustdeploy.core.torchvision_package import part_of_torchvision
from robustdeploy.data.decode import read_images
from robustdeploy.data.images import Images, Progress, Source, needed
from robustdeploy.errors import DataError

_LAYOUT = (
    "a folder that holds gtsrb/GTSRB/Training/00000/*.ppm … 00042/, gtsrb/GTSRB/Final_Test/Images/ "
    "and gtsrb/GT-final_test.csv"
)
_CLASSES = (
    *(f"speed limit {v}" for v in (20, 30, 50, 60, 70, 80)),
    "end of speed limit 80",
    *("speed limit 100", "speed limit 120", "no passing", "no passing for trucks", "priority at next crossing"),
    *("priority road", "give way", "stop", "no vehicles", "no trucks", "no entry", "danger"),
    *("bend left", "bend right", "double bend", "uneven road", "slippery road", "road narrows", "road works"),
    *("traffic lights", "pedestrians", "children", "bicycles", "snow", "wild animals", "end of all limits"),
    *("turn right", "turn left", "straight on", "straight on or right", "straight on or left"),
    *("keep right", "keep left", "roundabout", "end of no passing", "end of no passing for trucks"),
)


@dataclass(frozen=True)
class Gtsrb:
    """The signs as published, resized to 32×32 or data.size; never mirrored.

    Training images are 30 frames of each sign passed; the frames of one sign stay on one side of the split.
    """

    def __call__(self, path: Path | None, size: int | None) -> Source:
        """Return the source at ``path``, which may also be the inner folder ``gtsrb``."""
        folder = needed(path, "gtsrb", _LAYOUT).absolute()
        # torchvision's reader adds the inner folder's name by itself.
        root = folder.parent if folder.name == "gtsrb" and not (folder / "gtsrb").is_dir() else folder
        training = root / "gtsrb" / "GTSRB" / "Training"
        count = len([p for p in training.iterdir() if p.is_dir()]) if training.is_dir() else 0
        if count != len(_CLASSES):
            raise DataError(f"data set 'gtsrb': {training} has {count} of 43 class folders; expected {_LAYOUT}")
        shape = (3, size or 32, size or 32)
        return Source(
            name="GTSRB",
            classes=_CLASSES,
            image_shape=shape,
            mirror=False,
            train=partial(_read, root, "train", shape),
            test=partial(_read, root, "test", shape),
            mean=(0.3403, 0.3121, 0.3214),
            std=(0.2724, 0.2608, 0.2669),
        )


def _read(
    root: Path, part: Literal["train", "test"], shape: tuple[int, int, int], progress: Progress | None = None
) -> Images:
    datasets = part_of_torchvision("datasets")
    try:
        # The list alone is taken from torchvision: it decodes image by image, without our checks and threads.
        samples = datasets.GTSRB(root, split=part, download=False)._samples
    except (RuntimeError, OSError, KeyError, ValueError) as error:
        raise DataError(f"cannot read {root / 'gtsrb'}: {error}; expected {_LAYOUT}") from error
    paths = [Path(path) for path, _ in samples]
    labels = [label for _, label in samples]
    # Always resized: the published signs have sizes from 15 to 250 pixels.
    return read_images(paths, labels, shape, True, progress, _tracks(paths) if part == "train" else None)


def _tracks(paths: list[Path]) -> list[int]:
    """Return one number per sign that was passed: files are named <track>_<frame>.ppm in the folder of a class."""
    numbers: dict[tuple[str, str], int] = {}
    return [numbers.setdefault((p.parent.name, p.stem.partition("_")[0]), len(numbers)) for p in paths]


plugin = Gtsrb
