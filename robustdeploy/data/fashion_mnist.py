"""Fashion-MNIST: 70,000 pieces of clothing of 28×28 (Xiao et al. 2017), from a folder of yours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from robustdeploy.data.idx import Idx, idx_source
from robustdeploy.data.images import Source

_CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclass(frozen=True)
class FashionMnist:
    """Fashion-MNIST as published; may be mirrored."""

    def __call__(self, path: Path | None, size: int | None) -> Source:
        """Return the source at ``path``."""
        idx = Idx("fashion-mnist", "Fashion-MNIST", "FashionMNIST", _CLASSES, mirror=True, mean=0.2860, std=0.3530)
        return idx_source(idx, path, size)


plugin = FashionMnist
