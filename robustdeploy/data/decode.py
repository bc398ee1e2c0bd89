"""Decode image files into one tensor, on several threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from robustdeploy.data.images import Progress
from robustdeploy.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".webp", ".tif", ".tiff"})
_GREY = frozenset({"1", "L", "LA"})
_COLOUR = frozenset({"RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"})
_CHUNK = 64
"""Images per task: small enough to show progress and to stop soon after a bad file."""


def probe(path: Path) -> tuple[int, int, int]:
    """Return channels (1 or 3), height and width of an image file from its head."""
    with _opened(path) as image:
        return (1 if image.mode in _GREY else 3, image.height, image.width)


def decode(paths: Sequence[Path], shape: tuple[int, int, int], resize: bool, progress: Progress | None) -> Tensor:
    """Return the images as uint8 N×C×H×W of ``shape``; another size is a DataError unless ``resize``."""
    import torch

    try:
        images = np.empty((len(paths), *shape), np.uint8)
    except MemoryError as error:
        need = len(paths) * np.prod(shape, dtype=float) / 2**30
        raise DataError(f"{len(paths):,} images need {need:.1f} GiB of memory; set a smaller data.size") from error

    def fill(start: int) -> int:
        for place in range(start, min(start + _CHUNK, len(paths))):
            images[place] = _pixels(paths[place], shape, resize)
        return min(start + _CHUNK, len(paths))

    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        for done in pool.map(fill, range(0, len(paths), _CHUNK)):
            if progress is not None:
                progress(done, len(paths))
    finally:
        pool.shutdown(cancel_futures=True)
    return torch.from_numpy(images)


def resized(images: Tensor, size: int | None) -> Tensor:
    """Return uint8 images N×C×H×W as ``size``×``size``, with antialiasing; None leaves them as they are."""
    if size is None or tuple(images.shape[-2:]) == (size, size):
        return images
    import torch
    from torch.nn import functional as F

    parts = []
    for part in torch.split(images, 1024):  # in parts, since the floats take four times the memory
        scaled = F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True, align_corners=False)
        parts.append(scaled.round_().clamp_(0, 255).to(torch.uint8))
    return torch.cat(parts)


def _opened(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read the image {path}: {error}") from error
    if image.mode not in _GREY | _COLOUR:
        image.close()
        raise DataError(f"the image {path} has the pixel format {image.mode}; 8 bits per channel are supported")
    return image


def _pixels(path: Path, shape: tuple[int, int, int], resize: bool) -> npt.NDArray[np.uint8]:
    channels, height, width = shape
    with _opened(path) as image:
        if channels == 1 and image.mode not in _GREY:
            raise DataError(f"the image {path} is in colour and others of the data set are grey; convert one of them")
        if (image.height, image.width) != (height, width) and not resize:
            raise DataError(
                f"the image {path} is {image.height}×{image.width} and others are {height}×{width}; "
                "set data.size to resize all of them"
            )
        try:
            plain = image.convert("L" if channels == 1 else "RGB")
        except (OSError, SyntaxError, ValueError) as error:  # Pillow's names for a damaged body
            raise DataError(f"the image {path} is damaged: {error}") from error
    if (plain.height, plain.width) != (height, width):
        plain = plain.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(plain, np.uint8).reshape(height, width, channels).transpose(2, 0, 1)
