"""What a patch attack is, how large its square is, and the steps that all of them share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from robustdeploy.data.noise import Noise
from robustdeploy.errors import UsageError


@dataclass(frozen=True)
class Size:
    """How large a square is: a share of the image's area, or pixels a side."""

    area: float
    pixels: int | None = None

    def side(self, height: int, width: int) -> int:
        """Return pixels a side in images of that size; a square that does not fit is a UsageError."""
        side = max(1, round(math.sqrt(self.area * height * width))) if self.pixels is None else self.pixels
        if side >= min(height, width):
            raise UsageError(
                f"evaluate.patches: a square of {side} pixels a side covers images of {height}×{width} pixels; "
                "ask for less"
            )
        return side

    def __str__(self) -> str:
        return f"{100 * self.area:g}pct" if self.pixels is None else f"{self.pixels}px"


class PatchAttack(Protocol):
    """Fills a square of each image on the host. It proposes; it never judges itself.

    Its class may say ``LEARNS = True``: it then has a method ``learn`` and is given what that returned. For
    ``robustdeploy plan`` it may have ``passes``, how often one image goes through the net at most, and
    ``learning_passes``, how many go through it in all while it learns.
    """

    @property
    def label(self) -> str:
        """Name of its rows in the report, e.g. ``patch-5pct``."""
        ...

    @property
    def size(self) -> Size:
        """Of the square."""
        ...

    def __call__(
        self, net: nn.Module, images: Tensor, labels: Tensor, side: int, noise: Noise, learnt: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the patched ``images`` (N×C×H×W in [0, 1]), and the place of each square: its top row, left column.

        Whatever it changes beside a square of ``side`` pixels there is undone afterwards.
        """
        ...


def squares(places: Tensor, side: int, height: int, width: int) -> Tensor:
    """Return N×1×H×W bits: inside the square of ``side`` pixels whose upper left pixel is at ``places`` (N×2)."""
    rows, columns = (torch.arange(length, device=places.device) for length in (height, width))
    inside_rows, inside_columns = (
        (lines >= places[:, axis, None]) & (lines < places[:, axis, None] + side)
        for axis, lines in ((0, rows), (1, columns))
    )
    return (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]


def random_places(noise: Noise, step: int, side: int, height: int, width: int) -> Tensor:
    """Return N×2 places at which a square of ``side`` pixels lies inside the image, each as likely as any other."""
    room = torch.tensor([height - side + 1, width - side + 1], device=noise.ids.device)
    return (noise.uniform(step, (2,)) * room).long()


def laid_over(images: Tensor, patch: Tensor, places: Tensor) -> Tensor:
    """Return ``images`` with ``patch`` (C×S×S, or one for each image) at ``places``; gradients reach the patch."""
    side, (_, _, height, width) = patch.shape[-1], images.shape
    # Where each pixel of an image lies in its patch; outside it is any pixel, and the mask leaves that out.
    rows = (torch.arange(height, device=images.device) - places[:, 0, None]).clamp(0, side - 1)
    columns = (torch.arange(width, device=images.device) - places[:, 1, None]).clamp(0, side - 1)
    several = patch.expand(len(images), *patch.shape[-3:])
    every = torch.arange(len(images), device=images.device)[:, None, None]
    spread = several.permute(0, 2, 3, 1)[every, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return torch.where(squares(places, side, height, width), spread, images)
