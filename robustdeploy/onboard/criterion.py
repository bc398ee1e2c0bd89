"""Criterion: whether what a model answers is still right. Attacks, training and evaluation all ask it here."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .types import Labels, Scores

Floats = npt.NDArray[np.float64]


class Criterion(Protocol):
    """Turns outputs and labels into one bit per image. Arrays are numpy's or torch's, and stay of that kind."""

    def predictions(self, scores: Any) -> Any:
        """Return what each image is taken for, in the form that labels have."""
        ...

    def right(self, scores: Any, labels: Any) -> Any:
        """Return one bit per image: whether the answer is right."""
        ...

    def margin(self, scores: Scores, labels: Labels) -> Floats:
        """Return by how much each answer is right, in the scores' own unit; below 0 it is wrong."""
        ...


class Classification:
    """The class of the highest score; the first of several equal ones."""

    def predictions(self, scores: Any) -> Any:
        """Return the class of each image, for scores N×classes."""
        return scores.argmax(1)

    def right(self, scores: Any, labels: Any) -> Any:
        """Return whether that is the label."""
        return self.predictions(scores) == labels

    def margin(self, scores: Scores, labels: Labels) -> Floats:
        """Return the label's score less the best other one."""
        wide = scores.astype(np.float64)
        row = np.arange(len(wide))
        own = wide[row, labels]
        wide[row, labels] = -np.inf
        margin: Floats = own - wide.max(1)
        return margin


CLASSIFICATION: Criterion = Classification()
"""The criterion that ships."""
