"""MNIST: 70,000 handwritten digits of 28×28 (LeCun et al. 1998), from a folder of yours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from robustdeploy.data.idx import Idx, idx_source
from robustdeploy.data.images import Source


@dataclass(frozen=True)
class Mnist:
    """MNIST as published; never mirrored."""

    def __call__(self, path: Path | None, size: int | None) -> Source:
        """Return the source at ``path``."""
        idx = Idx("mnist", "MNIST", "MNIST", tuple("0123456789"), mirror=False, mean=0.1307, std=0.3081)
        return idx_source(idx, path, size)


plugin = Mnist
