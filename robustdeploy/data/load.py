"""Load what a recipe asks for: training and validation images for training, test images for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from robustdeploy.core.recipe import Data
from robustdeploy.data.decode import unreadable_lines
from robustdeploy.data.find import find_source
from robustdeploy.data.images import Images, Progress, Reading, Source
from robustdeploy.data.order import epoch_order
from robustdeploy.data.room import check_images
from robustdeploy.data.split import repeated, split
from robustdeploy.errors import DataError

Say = Callable[[str], None]
"""Hears one sentence that a user should know."""


@dataclass(frozen=True)
class Loaded:
    """What training may see of a data set."""

    name: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mirror: bool
    shift: int
    train: Images
    validation: Images
    digest: str
    """SHA-256 over the split; the same for the same images in any order."""
    duplicates: int
    """Images of training and validation together that repeat another one; all copies are on one side."""
    reading: Reading = field(default_factory=Reading)
    """What became of the files."""

    def facts(self) -> dict[str, Any]:
        """Return what a report says of the data."""
        return {
            "name": self.name,
            "classes": list(self.classes),
            "image_shape": list(self.image_shape),
            "train": len(self.train),
            "validation": len(self.validation),
            "split_sha256": self.digest,
            "duplicates": self.duplicates,
            **reading_facts(self.reading),
        }


def load_data(spec: Data, progress: Progress | None = None, say: Say | None = None) -> Loaded:
    """Read the training set of ``spec`` and hold out its validation share; the test set is not touched."""
    source = find_source(spec)
    if source.count_test is not None:  # one that no memory holds would end the work after the training
        check_images(source.count_test(), source.image_shape, "test ")
    images = _whole(source.train(progress), spec, say)
    sides = split(images, spec.validation)
    _check_classes(source, sides.train.labels, "training")
    _check_classes(source, sides.held_out.labels, "validation")
    # Of training images alone: statistics of held-out ones would let the net know of them.
    mean, std = (source.mean, source.std) if source.mean and source.std else channel_statistics(sides.train.images)
    return Loaded(
        name=source.name,
        classes=source.classes,
        image_shape=source.image_shape,
        mean=mean,
        std=std,
        mirror=source.mirror,
        shift=source.shift,
        train=sides.train,
        # Data sets often come sorted by class; here the first images stand for all of them.
        validation=sides.held_out.select(epoch_order(0, 0, len(sides.held_out))),
        digest=sides.digest,
        duplicates=repeated(images),
        reading=images.reading,
    )


def load_test(
    spec: Data, classes_expected: Sequence[str], progress: Progress | None = None, say: Say | None = None
) -> Images:
    """Read the test set of ``spec`` for a net that knows ``classes_expected``; other classes are a DataError."""
    source = find_source(spec)
    # The same names in another order would be other labels.
    if source.classes != tuple(classes_expected):
        raise DataError(
            f"the net knows {_listed(classes_expected)}; data set '{source.name}' has {_listed(source.classes)}: "
            "evaluate on the data set that the net was trained on"
        )
    return _whole(source.test(progress), spec, say)


def reading_facts(reading: Reading, prefix: str = "") -> dict[str, Any]:
    """Return what a report says of the files: how many were left out, and how many were changed in which way."""
    facts: dict[str, Any] = {f"{prefix}unreadable_skipped": len(reading.unreadable)} if reading.unreadable else {}
    return {**facts, **({f"{prefix}files": dict(reading.changes)} if reading.changes else {})}


def _whole(images: Images, spec: Data, say: Say | None) -> Images:
    """Refuse unreadable files unless they are to be left out, and say what became of the others."""
    reading = images.reading
    if reading.unreadable and not spec.skip_unreadable:
        raise DataError(*unreadable_lines(reading))
    if say is not None and reading.unreadable:
        say(f"{len(reading.unreadable):,} unreadable images are left out, first: {reading.unreadable[0]}")
    for how, count in reading.changes.items():
        if say is not None:
            say(f"{count:,} images {how}")
    return images


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of uint8 N×C×H×W, in pixels of [0, 1], to four places.

    They come from exact counts of the 256 values, so the order of the images changes nothing.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(1):
        shares = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = (shares * values).sum()
        # Four places, as recipes and papers write them; they are part of net.json and of its digest.
        means.append(round(float(mean), 4))
        # All images of one colour would have no deviation to divide by.
        stds.append(max(round(float((shares * (values - mean) ** 2).sum().sqrt()), 4), 1 / 255))
    return tuple(means), tuple(stds)


def _check_classes(source: Source, labels: Tensor, side: str) -> None:
    counts = torch.bincount(labels, minlength=len(source.classes)).tolist()
    if empty := [name for name, count in zip(source.classes, counts, strict=True) if not count]:
        raise DataError(
            f"data set '{source.name}': no {side} image is left for class {', '.join(empty[:5])}; "
            "each class needs at least two different training images"
        )


def _listed(classes: Sequence[str]) -> str:
    shown = ", ".join(classes[:12])
    return f"{len(classes)} classes ({shown}{', …' if len(classes) > 12 else ''})"
