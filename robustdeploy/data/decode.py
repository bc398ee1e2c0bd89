"""Decode image files into one tensor, on several threads; what cannot be used is listed, all of it.

What becomes of each kind of file is in the table of ``docs/data.md``.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from robustdeploy.core.reading import no_file
from robustdeploy.data.images import Images, Progress, Reading, numbered
from robustdeploy.data.room import check_images
from robustdeploy.errors import DataError
from robustdeploy.foreign import one_line

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".webp", ".tif", ".tiff"})
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "WEBP", "TIFF")
"""The only decoders that are ever tried, whatever a file is called: others start programs, as EPS does Ghostscript."""
MOST_PIXELS = 100_000_000
"""Pixels of one image; what is above, mostly a few bytes that claim to be a huge image, is not decoded."""
_GREY = frozenset({"1", "L", "LA"})
_COLOUR = frozenset({"RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"})
_MODES = _GREY | _COLOUR
_SIXTEEN_BITS = re.compile(r";16[BLN]")
_WITHOUT_WAITING = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_CHUNK = 64
"""Images per task: small enough to show progress and to stop soon after an interruption."""
_TURNED, _FLATTENED, _GREYS, _CMYK = (
    "turned as their EXIF orientation says",
    "with transparent parts laid on black",
    "in grey given three equal channels",
    "in CMYK turned into RGB without a colour profile",
)


class _Unreadable(Exception):
    """A file that holds no image that can be used."""


class _Unfit(Exception):
    """A sound image that does not go with the others of its set; leaving it out would not be honest."""


@dataclass(frozen=True)
class Decoded:
    """The images that were read, where in the list of paths each stood, and what became of the files."""

    images: Tensor
    kept: Tensor
    reading: Reading


def probe(path: Path) -> tuple[int, int, int]:
    """Return channels (1 or 3), height and width of an image file from its head; DataError for what is none."""
    try:
        with _warnings_told(), _stream(path) as stream:
            image = _opened(stream)
            # These four of EXIF's eight orientations exchange height and width.
            turned = _orientation(image) in (5, 6, 7, 8)
            sides = (image.width, image.height) if turned else (image.height, image.width)
            return (1 if image.mode in _GREY else 3, *sides)
    except (_Unreadable, OSError) as error:
        raise DataError(f"cannot read the image {one_line(path)}: {_why(error)}") from error


def read_images(
    paths: Sequence[Path],
    labels: Sequence[int],
    shape: tuple[int, int, int],
    resize: bool,
    progress: Progress | None,
    groups: Sequence[int] | None = None,
) -> Images:
    """Return the images of ``paths``, uint8 of C×H×W ``shape``, with their labels and the place of each as its id.

    Files that cannot be read are left out and listed in ``Images.reading``, for the caller to refuse or to count.
    """
    import torch

    decoded = decode(paths, shape, resize, progress)
    kept = decoded.kept
    joined = None if groups is None else torch.tensor(groups)[kept]
    if not len(kept):
        raise DataError(*unreadable_lines(decoded.reading, skippable=False))
    return numbered(decoded.images, torch.tensor(labels)[kept], joined, kept, decoded.reading)


def unreadable_lines(reading: Reading, skippable: bool = True) -> list[str]:
    """Return the sentences about all files that could not be read, the first ten by name."""
    found = reading.unreadable
    fix = "mend or remove them"
    if skippable:
        fix += ", or leave them out with --skip-unreadable (data.skip_unreadable), which says how many they were"
    one = f"{len(found):,} images cannot be read" if len(found) > 1 else "one image cannot be read"
    return [f"{one}; {fix}:", *_first(found)]


def decode(paths: Sequence[Path], shape: tuple[int, int, int], resize: bool, progress: Progress | None) -> Decoded:
    """Return the images as uint8 N×C×H×W of ``shape``; those of another size are a DataError unless ``resize``.

    Memory is looked at before any image is decoded. Every file is tried, so that all that is wrong is told at once.
    """
    import torch

    check_images(len(paths), shape)
    # One array that threads write into: a list of images to be joined would take twice the memory.
    images = np.empty((len(paths), *shape), np.uint8)
    unreadable: dict[int, str] = {}
    unfit: dict[int, str] = {}

    def fill(start: int) -> tuple[int, Counter[str]]:
        end, changes = min(start + _CHUNK, len(paths)), Counter[str]()
        for place in range(start, end):
            try:
                images[place] = _pixels(paths[place], shape, resize, changes)
            except _Unfit as error:
                unfit[place] = f"the image {one_line(paths[place])} is {error}"
            except Exception as error:  # Pillow answers damage with many kinds of errors
                unreadable[place] = f"cannot read the image {one_line(paths[place])}: {_why(error)}"
        return end, changes

    changes = Counter[str]()
    # Threads and not processes: Pillow lets go of the interpreter's lock while it decodes.
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        with _warnings_told():
            for done, its in pool.map(fill, range(0, len(paths), _CHUNK)):
                changes.update(its)
                if progress is not None:
                    progress(done, len(paths))
    finally:
        # Without this Ctrl-C would wait until the last of a million files is decoded.
        pool.shutdown(cancel_futures=True)
    if unfit:
        raise DataError(*_first([unfit[place] for place in sorted(unfit)]))
    kept = np.array([place for place in range(len(paths)) if place not in unreadable], np.int64)
    reading = Reading(tuple(unreadable[place] for place in sorted(unreadable)), dict(sorted(changes.items())))
    whole = images if len(kept) == len(paths) else images[kept]
    return Decoded(torch.from_numpy(whole), torch.from_numpy(kept), reading)


def resized(images: Tensor, size: int | None) -> Tensor:
    """Return uint8 images N×C×H×W as ``size``×``size``, with antialiasing; None leaves them as they are."""
    if size is None or tuple(images.shape[-2:]) == (size, size):
        return images
    import torch
    from torch.nn import functional as F

    check_images(len(images), (images.shape[1], size, size))
    parts = []
    for part in torch.split(images, 1024):  # in parts, since the floats take four times the memory
        # Antialiased, as Pillow's resizing of files is; without it small images hold whatever pixel was hit.
        scaled = F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True, align_corners=False)
        parts.append(scaled.round_().clamp_(0, 255).to(torch.uint8))
    return torch.cat(parts)


def _first(lines: Sequence[str], most: int = 10) -> list[str]:
    more = len(lines) - most
    return [*lines[:most], *([f"and {more:,} more"] if more > 0 else [])]


@contextmanager
def _warnings_told() -> Iterator[None]:
    """Pillow warns of much that is wrong with a file, and goes on; entered in one thread, for all of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Pillow warns from one limit on and raises at twice that. Both must end the reading of the file.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _why(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"it claims more than {MOST_PIXELS / 1e6:,.0f} megapixels"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return one_line(str(error) or type(error).__name__)[:200]


def _stream(path: Path) -> BinaryIO:
    """Open a file, without waiting for a pipe that nobody writes to."""
    return open(os.open(path, _WITHOUT_WAITING), "rb")  # noqa: PTH123 - a number of a file, not a path


def _opened(stream: BinaryIO) -> Image.Image:
    """Open an image, its pixels still to be decoded; what is none of ours, or not of 8 bits, is ``_Unreadable``."""
    # Of the open file and not of the path, which may be another one by then.
    about = os.fstat(stream.fileno())
    if found := no_file(about.st_mode):
        raise _Unreadable(f"it is {found}")
    if not about.st_size:
        raise _Unreadable("the file is empty")
    try:
        image = Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise _Unreadable(f"it is damaged, or none of {', '.join(FORMATS)}") from error
    # Before any pixel is decoded: the head alone tells size and format.
    _check(image)
    return image


def _check(image: Image.Image) -> None:
    if not 0 < image.width * image.height <= MOST_PIXELS:
        raise _Unreadable(f"it is {image.height}×{image.width}, outside 1 to {MOST_PIXELS:,} pixels")
    if image.mode not in _MODES:
        raise _Unreadable(f"it has the pixel format {image.mode}; save it with 8 bits per channel")
    if image.format in ("JPEG", "MPO"):  # of 8 bits always; what else an MPO holds are views of the same picture
        return
    if _has_sixteen_bits(image):
        raise _Unreadable("it has 16 bits per channel; save it with 8, since a cut to 8 is a choice of yours")
    # Pillow would read the first one, and nobody would learn that others were passed over.
    if (pictures := getattr(image, "n_frames", 1)) > 1:
        raise _Unreadable(f"it holds {pictures} pictures; save the one that is meant")


def _has_sixteen_bits(image: Image.Image) -> bool:
    """Whether Pillow would cut 16 bits to 8 on the way, which its modes for colour do not show."""
    decoders = [tile[3] for tile in getattr(image, "tile", ())]
    if image.format == "PPM":
        return any(isinstance(part, int) and part > 255 for given in decoders for part in given[1:2])
    return any(_SIXTEEN_BITS.search(str(given)) for given in decoders)


def _pixels(path: Path, shape: tuple[int, int, int], resize: bool, changes: Counter[str]) -> npt.NDArray[np.uint8]:
    channels, height, width = shape
    with _stream(path) as stream:
        image = _opened(stream)
        if channels == 1 and image.mode not in _GREY:
            raise _Unfit("in colour and others of the data set are grey; convert one of them")
        its: list[str] = []
        plain = _turned(image, its)
        if (plain.height, plain.width) != (height, width) and not resize:
            raise _Unfit(
                f"{plain.height}×{plain.width} and others are {height}×{width}; set data.size to resize all of them"
            )
        plain = _flattened(plain, "L" if channels == 1 else "RGB", its)
    if (plain.height, plain.width) != (height, width):
        # After turning and flattening: resizing a palette or transparent pixels mixes numbers that are no colours.
        plain = plain.resize((width, height), Image.Resampling.BILINEAR)
    if its:
        changes.update(its)
    return np.asarray(plain, np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


def _orientation(image: Image.Image) -> int:
    if image.format == "JPEG" and not ("exif" in image.info or "xmp" in image.info):  # spares the search
        return 1
    return int(image.getexif().get(0x0112, 1))


def _turned(image: Image.Image, changes: list[str]) -> Image.Image:
    if _orientation(image) in range(2, 9):
        changes.append(_TURNED)
        return ImageOps.exif_transpose(image)
    return image


def _flattened(image: Image.Image, mode: str, changes: list[str]) -> Image.Image:
    if image.mode == mode and "transparency" not in image.info:
        # Pillow decodes when pixels are first asked for, which would be after the file is closed.
        image.load()
        return image
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        whole = image.convert("RGBA")
        # Many files have an alpha channel in which nothing is transparent; those are not changed.
        if min(whole.getchannel("A").tobytes()) < 255:
            changes.append(_FLATTENED)
            whole = Image.alpha_composite(Image.new("RGBA", whole.size, (0, 0, 0, 255)), whole)
        return whole.convert("RGB").convert(mode)
    if mode == "RGB" and image.mode in _GREY:
        changes.append(_GREYS)
    elif image.mode == "CMYK":
        changes.append(_CMYK)
    return image.convert(mode)
