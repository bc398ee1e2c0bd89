"""What a report draws of a net's training and of its answers, beside its rows."""

from __future__ import annotations

from pydantic import Field

from robustdeploy.core.model import Noun
from robustdeploy.core.records import Count

Cell = tuple[Count, Count, Count]
"""A class and an answer, by their places in the list of classes, and how many images have both."""


class Answers(Noun):
    """What a subject answered to the test images, class by class. Pairs that never occurred are left out."""

    classes: tuple[str, ...]
    clean: tuple[Cell, ...]
    """Of the images as they are."""
    worst: tuple[Cell, ...]
    """Under all attacks: an image that fell has the wrong answer of the first attack that broke it."""


class Epoch(Noun):
    """One epoch of a training; what was not measured in it is None."""

    epoch: int = Field(ge=0)
    loss: float | None = None
    clean: float | None = None
    """Share of the held-out images that are labelled right."""
    attacked: float | None = None
    """The same under PGD."""
    ops: float | None = None
    """Operations, as a share of the dense net's."""


class Course(Noun):
    """How a training went."""

    epochs: tuple[Epoch, ...]
    frozen: int | None = None
    """First epoch in which the masks no longer moved; None where they were never trained, or always."""
    rollbacks: tuple[int, ...] = ()
    """Epochs at which it had gone back to an earlier, sound state."""


class Making(Noun):
    """How the run's own net came about; an empty text is what is not known."""

    recipe: str
    net: str
    """With its options: ``resnet8, width 24``."""
    task: str = ""
    epochs: int | None = None
    seconds: float | None = None
    """Time of the training."""
    commit: str = ""
    """Git commit of the folder that the training was started in."""


class Past(Noun):
    """An earlier run of the same recipe on the same target, for the trend: its figures, where it has them."""

    name: str
    began: str
    """UTC, ISO 8601."""
    clean: float | None = None
    worst: float | None = None
    ops: float | None = None
    p99_ms: float | None = None
