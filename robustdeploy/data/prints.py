"""Prints: what is kept of images so that copies of them can be told later, when the images are not there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from robustdeploy.data.images import Images
from robustdeploy.data.split import image_hashes

SIDE = 8
"""Pixels along a thumbnail."""
_AT_ONCE = 1000

Prints = Mapping[str, npt.NDArray[Any]]
"""``hashes``: uint64 N, of each image's bytes; ``thumbnails``: uint8 N×C×8×8, means over the cells of a grid."""


def prints_of(*sets: Images) -> Prints:
    """Return the prints of all images of ``sets``, one after another."""
    # Eight of 32 bytes: among millions of images a chance of two alike remains of about one in a million.
    hashes = [digest[:8] for images in sets for digest in image_hashes(images.to(torch.device("cpu")))]
    thumbnails = []
    for images in sets:
        for start in range(0, len(images), _AT_ONCE):
            part = images.images[start : start + _AT_ONCE].cpu().float()
            thumbnails.append(nn.functional.adaptive_avg_pool2d(part, SIDE).round().to(torch.uint8).numpy())
    return {"hashes": np.frombuffer(b"".join(hashes), np.uint64), "thumbnails": np.concatenate(thumbnails)}
