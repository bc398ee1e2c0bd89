"""What a corruption is, at which of the published strengths it is applied, and how its result becomes 8 bits.

Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations" (ICLR 2019).
They published one table of parameters for small images, CIFAR-10-C's, and one for large ones, ImageNet-C's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from robustdeploy.errors import UsageError
from robustdeploy.onboard.draws import Draws
from robustdeploy.onboard.types import Bytes

Floats = npt.NDArray[np.float64]
Table = Mapping[str, tuple[Any, ...]]
"""Parameters by name, each with its value at the severities 1 to 5."""

SMALL_SIDE = 64
"""Longest side in pixels of an image that is small."""
_SMALLEST = 8
_AT_ONCE = 2**22
"""Numbers that are worked on at a time."""


class Corruption(Protocol):
    """Changes images as the world might. What becomes of one depends on no other image beside it."""

    @property
    def severities(self) -> tuple[int, ...]:
        """Which of the strengths 1 to 5 are measured."""
        ...

    @property
    def SMALL(self) -> Table:
        """Parameters for images of at most ``SMALL_SIDE`` pixels a side."""
        ...

    @property
    def LARGE(self) -> Table:
        """Parameters for larger ones."""
        ...

    def __call__(self, images: Floats, draws: Draws, **parameters: Any) -> Floats:
        """Return ``images`` (N×C×H×W in [0, 1], C 1 or 3) corrupted; what is beyond [0, 1] is clipped afterwards.

        ``draws`` are of the images' ids. ``parameters`` are those of one severity, by their names in the tables.
        """
        ...


def is_small(shape: tuple[int, ...]) -> bool:
    """Whether images of shape C×H×W take the parameters of small ones."""
    return max(shape[1:]) <= SMALL_SIDE


def published_for(shape: tuple[int, ...]) -> str:
    """Say whose parameters images of shape C×H×W take."""
    return "CIFAR-10-C, 32×32 pixels" if is_small(shape) else "ImageNet-C, 224×224 pixels"


def parameters_of(corruption: Corruption, severity: int, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the parameters of one severity by name, for images of shape C×H×W."""
    table = corruption.SMALL if is_small(shape) else corruption.LARGE
    return {name: values[severity - 1] for name, values in table.items()}


def check_shape(shape: tuple[int, ...]) -> None:
    """Refuse images that corruptions have no meaning for; ``shape`` is C×H×W."""
    if shape[0] not in (1, 3):
        raise UsageError(
            f"evaluate.corruptions: images have {shape[0]} channels, and corruptions are for grey (1) or RGB (3) ones; "
            "leave evaluate.corruptions empty"
        )
    if min(shape[1:]) < _SMALLEST:
        raise UsageError(
            f"evaluate.corruptions: images have {shape[1]}×{shape[2]} pixels, and below {_SMALLEST} a blur leaves "
            "nothing to see; leave evaluate.corruptions empty"
        )


def corrupted(corruption: Corruption, images: Bytes, severity: int, draws: Draws) -> Bytes:
    """Return 8-bit ``images`` (N×C×H×W) corrupted; ``draws`` are of their ids."""
    shape = images.shape[1:]
    parameters = parameters_of(corruption, severity, shape)
    parts, at_once = [], max(1, _AT_ONCE // max(1, int(np.prod(shape))))
    for start in range(0, len(images), at_once):
        some = slice(start, start + at_once)
        found = corruption(images[some] / 255.0, Draws(draws.key, draws.ids[some]), **parameters)
        # Cut and not rounded, as the published images are; the hair keeps whole grey levels what they were.
        parts.append(np.floor(np.clip(found, 0, 1) * 255 + 1e-6).astype(np.uint8))
    return np.concatenate(parts)
