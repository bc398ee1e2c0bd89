"""What a precision is: a pass from the exported file to one that computes in it, and how far it may be off."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol, runtime_checkable

from onnx import ModelProto

from robustdeploy.onboard.types import Pixels


@dataclass(frozen=True)
class Limits:
    """How far what is deployed in a precision may be from what it is compared with."""

    agreement: float = 0.99
    """Least share of clean images that a board labels as its reference in torch does; below, nothing is certified."""
    lowering: float = 0.99
    """Least share of held-out images, clean and attacked, that the file labels as that in float32 does; below, a
    warning."""
    twin: float = 0.99
    """Least share of held-out images, clean and attacked, that the torch twin labels as the runtime does; below, what
    its gradients find is void."""
    golden: float = 0.0
    """Share of the golden scores' span by which a board's may differ before that is a warning; 1e-3 in any case."""
    another: float = 0.1
    """Share of that span from which on another net answers."""


IN_FLOAT32 = Limits()
"""Of a net that is deployed as it was exported."""


@dataclass(frozen=True)
class Calibration:
    """Which images the ranges of activations are measured on; never test images."""

    images: Literal["clean", "adversarial", "mixed"]
    count: int


@dataclass(frozen=True)
class Tuning:
    """How weights are fine-tuned for a precision, under the recipe's own objective."""

    epochs: int
    lr: float


@runtime_checkable
class Tunable(Protocol):
    """A precision whose rounding can be trained through."""

    @property
    def tuning(self) -> Tuning | None:
        """How weights are fine-tuned; None where they are not."""
        ...

    def simulated(self, onnx: Path, images: Pixels | None) -> ModelProto:
        """Return the graph that rounds as the lowered one does and keeps its weights in float."""
        ...


class Precision(Protocol):
    """One pass over an exported net; its fields are its options in a recipe or a target.

    ``LIMITS`` is a class attribute, as it is asked for where no option is known.
    """

    LIMITS: ClassVar[Limits]

    @property
    def calibration(self) -> Calibration | None:
        """The images that ``lower`` needs; None where it needs none."""
        ...

    def lower(self, onnx: Path, lowered: Path, images: Pixels | None) -> None:
        """Write to ``lowered`` what computes ``onnx`` in this precision; same input, output and metadata.

        Raises ArtifactError with the reason where it cannot.
        """
        ...
