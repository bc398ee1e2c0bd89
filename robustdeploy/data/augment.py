"""Augment a batch: move each image a little, with zeros coming in, and mirror some of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

NUMBERS = 3
"""Random numbers that one image takes: down, right, mirror."""


def augment(images: Tensor, numbers: Tensor, shift: int, mirror: bool) -> Tensor:
    """Return N×C×H×W of the same type and device, each moved by up to ``shift`` pixels and perhaps mirrored.

    ``numbers`` are N×3 in [0, 1), e.g. ``Noise.uniform(step, (NUMBERS,))``; equal numbers move an image equally.
    """
    count, _, height, width = images.shape
    # All 2·shift + 1 places are equally likely. The clamp is for a float32 product that rounds up to the next whole
    # number.
    offset = (numbers[:, :2] * (2 * shift + 1)).to(torch.int64).clamp_(max=2 * shift)
    rows = offset[:, :1] + torch.arange(height, device=images.device)
    columns = offset[:, 1:] + torch.arange(width, device=images.device)
    if mirror:
        # Mirroring is a choice of columns too, so moving and mirroring are one gather.
        columns = torch.where(numbers[:, 2:] < 0.5, columns.flip(1), columns)
    padded = F.pad(images, (shift, shift, shift, shift)).permute(0, 2, 3, 1)
    sample = torch.arange(count, device=images.device)[:, None, None]
    return padded[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
