"""What a preprocessing step is: plain torch code from images to images."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Step(Protocol):
    """One step in front of a net. Its fields are its options.

    A step that sets the class attribute ``NORMALISES`` to True takes the place of the data set's normalisation.
    """

    def __call__(self, images: Tensor) -> Tensor:
        """Return images N×C×H×W as the step makes them, of any C, H and W; they came as pixels in [0, 1].

        Gradients pass through it, each image is treated alone, and it is exported into the ONNX file. A ValueError says
        why images of that shape cannot be taken.
        """
        ...


def times(images: Tensor) -> str:
    """Write an image's shape as ``3×480×640``."""
    return "×".join(map(str, images.shape[1:]))
