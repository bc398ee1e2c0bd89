"""What a training task is: it turns one batch into a loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat


class Task(Protocol):
    """One way to train. The loop neither knows nor cares which."""

    def __call__(
        self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise
    ) -> Mapping[str, Tensor]:
        """Return ``loss`` (a scalar to minimise) and any further scalars for the log, such as ``accuracy``.

        ``images`` are float N×C×H×W in [0, 1], already augmented; ``noise`` depends on seed, epoch and sample alone.
        """
        ...
