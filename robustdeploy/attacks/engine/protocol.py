"""What an engine attack is: it holds the engine's twin in torch, and asks the engine itself for scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat

AskScores = Callable[[Tensor, Tensor], Tensor]
"""Returns the engine's scores, N×K, for images N×C×H×W in whole grey levels.

Each image is one query, and is charged to the attacked image at its place in the second argument, int64 N."""

_APART = 0.25
"""Scores further apart than this share of the twin's span are of another net, or are no raw scores."""


class EngineAttack(Protocol):
    """An adversary with the gradients of the engine's twin and with the engine's own scores.

    It proposes images; it never judges itself. Two class attributes may be declared:

    * ``KIND: ClassVar``: how its rows say that images were found, ``straight-through`` by default. With ``divergence``
      images are counted that the twin labels right and the engine wrong, beside as many random ones.
    """

    @property
    def label(self) -> str:
        """Name of its rows in the report, e.g. ``straight-through-20``."""
        ...

    def __call__(
        self, twin: nn.Module, ask: AskScores, images: Tensor, labels: Tensor, threat: Threat, noise: Noise
    ) -> Tensor:
        """Return an image for each of ``images`` (N×C×H×W in [0, 1], whole grey levels), inside the threat's box."""
        ...


def alike(engine: Tensor, twin: Tensor) -> Tensor:
    """Tell of which images the engine's scores are the twin's, up to a quarter of their span: one bit each.

    Hard, rounded or scaled scores are not, and a derivative at those says nothing.
    """
    span = twin.amax(1) - twin.amin(1)
    return (engine - twin).abs().amax(1) <= _APART * span
