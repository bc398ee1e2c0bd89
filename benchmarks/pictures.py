"""Pictures: CIFAR-10 from its folder, or random images of its shape where only the time counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from robustdeploy.core.recipe import Data
from robustdeploy.data.images import Images, numbered
from robustdeploy.data.load import Loaded, channel_statistics, load_data
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.draws import key

SHAPE = (3, 32, 32)
CLASSES = 10
TRAIN, VALIDATION = 45_000, 5_000
"""What the recipe leaves of CIFAR-10's 50,000 training images, and what it holds out of them."""
_CHUNK = 1024


def pictures(path: Path | None, most: int | None) -> Loaded:
    """Return CIFAR-10 from ``path``, or random images; ``most`` limits the training images, and the others alike."""
    loaded = random_pictures(most or TRAIN) if path is None else load_data(Data(name="cifar10", path=path))
    if most is None or most >= len(loaded.train):
        return loaded
    held_out = max(1, len(loaded.validation) * most // len(loaded.train))
    train, validation = loaded.train.select(torch.arange(most)), loaded.validation.select(torch.arange(held_out))
    return replace(loaded, train=train, validation=validation)


def random_pictures(count: int) -> Loaded:
    """Return ``count`` random uint8 images of CIFAR-10's shape; the same ones every time."""
    train, validation = _random(count, "train"), _random(max(1, count * VALIDATION // TRAIN), "validation")
    mean, std = channel_statistics(train.images)
    return Loaded(
        name="random images of CIFAR-10's shape",
        classes=tuple(str(number) for number in range(CLASSES)),
        image_shape=SHAPE,
        mean=mean,
        std=std,
        mirror=True,
        shift=SHAPE[1] // 8,
        train=train,
        validation=validation,
        digest="",
        duplicates=0,
    )


def _random(count: int, name: str) -> Images:
    parts: list[Tensor] = []
    for ids in torch.split(torch.arange(count), _CHUNK):  # in parts, since the numbers start as float32
        parts.append((Noise(key(0, "pictures", name), ids).uniform(0, SHAPE) * 256).to(torch.uint8))
    return numbered(torch.cat(parts), torch.arange(count) % CLASSES)
