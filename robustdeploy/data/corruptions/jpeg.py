"""JPEG: what a lossy file leaves of an image (Hendrycks and Dietterich, ICLR 2019)."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import ClassVar

from PIL import Image

from robustdeploy.core.bounds import Severity
from robustdeploy.data.corruptions.encoded import by_picture
from robustdeploy.data.corruptions.protocol import Floats, Table
from robustdeploy.onboard.draws import Draws


@dataclass(frozen=True)
class Jpeg:
    """Writes an image as JPEG, and reads it."""

    severities: tuple[Severity, ...] = (1, 2, 3, 4, 5)

    SMALL: ClassVar[Table] = {"quality": (80, 65, 58, 50, 40)}
    LARGE: ClassVar[Table] = {"quality": (25, 18, 15, 10, 7)}

    def __call__(self, images: Floats, draws: Draws, *, quality: int) -> Floats:
        """Return images after JPEG of that ``quality``, in libjpeg's scale."""

        def change(picture: Image.Image) -> Image.Image:
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=quality)
            return Image.open(file)

        return by_picture(images, change)


plugin = Jpeg
