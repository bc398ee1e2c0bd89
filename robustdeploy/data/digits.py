"""Handwritten digits, 1,797 images of 8×8, that come with scikit-learn: no path and no download."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from robustdeploy.data.decode import resized
from robustdeploy.data.images import Images, Progress, Source, numbered
from robustdeploy.data.split import split
from robustdeploy.errors import DataError

_TEST_SHARE = 0.3
_TEST_IMAGES = 544
"""What that share comes to: the set never changes, and to read it takes seconds."""


@dataclass(frozen=True)
class Digits:
    """scikit-learn's digits, scaled from 0..16 to 0..255; 30 % of each class, chosen by hash, are the test set."""

    def __call__(self, path: Path | None, size: int | None) -> Source:
        """Return the source; ``path`` must be unset."""
        if path is not None:
            raise DataError(f"data set 'digits' comes with scikit-learn and reads no data.path ({path}); remove it")
        side = size or 8
        return Source(
            name="digits",
            classes=tuple("0123456789"),
            image_shape=(1, side, side),
            mirror=False,
            train=partial(_read, "train", size),
            test=partial(_read, "test", size),
            count_test=lambda: _TEST_IMAGES,
            mean=(0.3053,),
            std=(0.3759,),
        )


def _read(part: Literal["train", "test"], size: int | None, progress: Progress | None = None) -> Images:
    import numpy as np
    import torch
    from sklearn.datasets import load_digits

    raw = load_digits()
    # The set has 17 grey levels, 0 to 16; attacks and boards work on 8-bit images.
    pixels = np.rint(raw.images * (255 / 16)).astype(np.uint8)[:, None]
    whole = numbered(torch.from_numpy(pixels), torch.from_numpy(raw.target))
    # scikit-learn has no test set of its own; by hash, the same images are it for everybody.
    sides = split(whole, _TEST_SHARE)
    chosen = sides.train if part == "train" else sides.held_out
    if progress is not None:
        progress(len(chosen), len(chosen))
    # Numbered anew: ids are places in the set that was read, here one side of the split.
    return numbered(resized(chosen.images, size), chosen.labels)


plugin = Digits
