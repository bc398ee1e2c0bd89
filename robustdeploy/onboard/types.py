"""The few types that cross between an adversary, a toolchain and the agent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from .draws import Draws

Bytes = npt.NDArray[np.uint8]
"""Images as stored and sent: uint8, N×C×H×W."""
Pixels = npt.NDArray[np.float32]
"""Images as a net reads them: float32 in [0, 1], N×C×H×W."""
Labels = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]


Norm = Literal["linf", "l2", "l1"]
"""What the length of a move is measured in: its largest change, or over all pixels and channels together."""
POWERS: Mapping[str, int] = {"l2": 2, "l1": 1}
"""Of the norms that are sums over all pixels: which power of each change is summed."""
SIGNS: Mapping[str, str] = {"linf": "ℓ∞", "l2": "ℓ2", "l1": "ℓ1"}
"""How norms are written for people."""
_DENOMINATOR = 100_000
"""Largest denominator of a radius that was given as a fraction."""


@dataclass(frozen=True)
class Threat:
    """How far an adversary may move an image: a ball of radius ``eps`` in pixels of [0, 1]."""

    norm: str = "linf"
    eps: float = 8 / 255

    @property
    def levels(self) -> int:
        """The most whole grey levels that one pixel may change; rounded down, so that the ball is never left."""
        # A radius in decimals, such as 0.031372549, lies a hair below 8 levels and means 8.
        return min(255, int(self.eps * 255 + 1e-6))

    @property
    def most(self) -> int:
        """Largest sum, over all pixels, of the changes in grey levels to the norm's power; not for ``linf``.

        ``floor(255 eps)`` for ``l1``, ``floor((255 eps)²)`` for ``l2``, in exact arithmetic.
        """
        near = Fraction(self.eps).limit_denominator(_DENOMINATOR)
        # 128/255 was rounded to a float, and 255 times that may be a hair below 128.
        eps = near if float(near) == self.eps else Fraction(self.eps)
        return math.floor((255 * eps) ** POWERS[self.norm])

    @property
    def length(self) -> float:
        """The radius in grey levels that whole levels can have, not rounded for ``l2``."""
        return float(self.levels) if self.norm == "linf" else float(self.most ** (1 / POWERS[self.norm]))

    def scaled(self, multiple: float) -> Threat:
        """Return the ball of ``multiple`` times this radius; none in ``linf`` is larger than all of [0, 1]."""
        eps = self.eps * multiple
        return Threat(self.norm, min(1.0, eps) if self.norm == "linf" else eps)

    @property
    def holds_more(self) -> bool:
        """Whether any other 8-bit image lies in the ball."""
        return self.length >= 1

    def each(self, size: int) -> int:
        """Whole levels, at least one, by which all of ``size`` pixels can change at once, about as the ball allows."""
        return self.levels if self.norm == "linf" else max(1, int(self.length / size ** (1 / POWERS[self.norm])))

    def box(self, images: Bytes) -> tuple[Bytes, Bytes]:
        """Lowest and highest 8-bit value that each pixel of ``images`` may take, whatever the others do."""
        # uint8 wraps around: 3 - 8 would be 251.
        wide = images.astype(np.int16)
        low = np.clip(wide - self.levels, 0, 255).astype(np.uint8)
        high = np.clip(wide + self.levels, 0, 255).astype(np.uint8)
        return low, high

    def __str__(self) -> str:
        return f"{SIGNS.get(self.norm, self.norm)} ball of eps {self.eps:.4g}"


def pixels_from_bytes(images: Bytes) -> Pixels:
    """Turn 8-bit images into what a net reads; host and board share this one conversion."""
    # A product with 1/255 rounds some levels differently, and a near-tie could then get another class on the board.
    return images.astype(np.float32) / np.float32(255)


PARTS = ("host_to_device", "compute", "device_to_host")
"""Parts of one call that a toolchain with a memory of its own may tell apart."""


class Model(Protocol):
    """Anything that scores images: a torch net, an ONNX session, an engine, a board."""

    def __call__(self, images: Pixels) -> Scores:
        """Return one row of class scores per image."""
        ...


@dataclass(frozen=True)
class Probe:
    """What a toolchain says of itself on this machine."""

    usable: bool
    version: str = ""
    fix: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


class Backend(Protocol):
    """A toolchain that turns an ONNX file into an engine: a folder of one or more files.

    A backend may also declare, as class attributes, what is true of it wherever it runs:

    * ``TIED_TO: ClassVar[tuple[str, ...]]``: what its engines are tied to, besides its version. Names of ``machine``,
      ``cpu_model`` and ``board_model``, which every board tells, or of its own probe's details. By default these three.
    * ``BUILDS_ON_HOST: ClassVar[bool]``: whether a host may build the engine, where all of ``TIED_TO`` and the version
      are the same there as on the board. False by default.
    * ``CROSS_COMPILES: ClassVar[bool]``: whether the host may be another machine than the board, so that only what
      ``TIED_TO`` names of the probe's details must be the same there. False by default.
    * ``STANDS_IN: ClassVar[bool]``: whether it answers without computing the net. False by default.
    """

    def probe(self) -> Probe:
        """Say whether the toolchain works here, in which version, and if not, the fix."""
        ...

    def compile(self, onnx: Path, engine: Path) -> None:
        """Put the engine's files, with plain names and no folders, into the empty folder ``engine``.

        Raises ToolchainError or ArtifactError with the toolchain's own words.
        """
        ...

    def open(self, engine: Path) -> AbstractContextManager[Model]:
        """Load the engine in the folder ``engine``, which has the same files, for scoring. Nothing is written there.

        The model may have an attribute ``runs``: by name, what really runs there, read back from the toolchain. It may
        also have a method ``split(images)`` that scores them once and returns the nanoseconds of `PARTS`, by name.
        """
        ...


Needs = Literal["scores", "labels"]
"""What a query attack reads of an answer: all its scores, or the predicted label alone."""


class QueryAttack(Protocol):
    """An adversary that sees answers only. It proposes images; it never judges itself.

    It declares as class attributes what it reads of them, ``NEEDS: ClassVar[Needs]``, by default its scores; and in
    which norms it attacks, ``NORMS: ClassVar[tuple[str, ...]]``, by default ``linf`` alone.
    """

    def __call__(self, model: Model, images: Bytes, labels: Labels, threat: Threat, draws: Draws) -> Bytes:
        """Return the strongest image found for each input, inside ``threat``'s ball."""
        ...
