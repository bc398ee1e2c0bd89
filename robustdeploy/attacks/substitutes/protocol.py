"""What a substitute attack is: a net trained on the labels that the attacked one gives, and followed in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

from robustdeploy.attacks.protocol import GradientAttack

Ask = Callable[[Tensor], Tensor]
"""Returns the label (int64) that the attacked net gives each image, of N×C×H×W in [0, 1] and whole grey levels.

Each image is one query. Scores are never told."""


class SubstituteAttack(Protocol):
    """An adversary that knows labels alone. It trains a net of its own; images found on that are judged elsewhere."""

    @property
    def label(self) -> str:
        """Name of its rows in the report, e.g. ``substitute-fgsm``."""
        ...

    @property
    def seed_images(self) -> int:
        """Images that it begins with; fewer where fewer are held out."""
        ...

    @property
    def follows(self) -> GradientAttack:
        """What is run on the trained substitute."""
        ...

    def __call__(self, ask: Ask, images: Tensor, classes: int, key: int) -> nn.Module:
        """Return a net that maps pixels in [0, 1] to scores of ``classes``, trained on what ``ask`` answers.

        ``images`` are its seeds, N×C×H×W in whole grey levels, without labels. All that is drawn follows from ``key``.
        """
        ...
