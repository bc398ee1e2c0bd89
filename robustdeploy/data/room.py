"""Room for images: how much memory a data set takes, and a refusal before any of it is decoded."""

from __future__ import annotations

from robustdeploy.core.reading import size_text
from robustdeploy.core.room import available_bytes, check_room

LOADED = 2.5
"""Bytes of memory per byte of pixels while a data set is loaded: the images, both sides of their split, statistics."""
SMALLEST, LARGEST = 4, 1024
"""Of what ``data.size`` may be."""


def check_images(count: int, shape: tuple[int, int, int], kind: str = "") -> None:
    """Refuse to read ``count`` images of C×H×W that memory cannot hold; ``kind`` says which these are."""
    channels, height, width = shape
    pixels, available = count * channels * height * width, available_bytes()
    fits = min(LARGEST, int(((available or 0) / (LOADED * count * channels)) ** 0.5)) if count else 0
    check_room(
        f"{count:,} {kind}images of {height}×{width} ({size_text(pixels)} of pixels)",
        LOADED * pixels,
        f"set data.size to {fits} or less, or give fewer images" if fits >= SMALLEST else "give fewer images",
        available,
    )
