"""Pixelate: a picture of few pixels, made larger (Hendrycks and Dietterich, ICLR 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from PIL import Image

from robustdeploy.core.bounds import Severity
from robustdeploy.data.corruptions.encoded import by_picture
from robustdeploy.data.corruptions.protocol import Floats, Table
from robustdeploy.onboard.draws import Draws


@dataclass(frozen=True)
class Pixelate:
    """Makes an image smaller and large again, each by averaging over boxes."""

    severities: tuple[Severity, ...] = (1, 2, 3, 4, 5)

    SMALL: ClassVar[Table] = {"kept": (0.95, 0.9, 0.85, 0.75, 0.65)}
    LARGE: ClassVar[Table] = {"kept": (0.6, 0.5, 0.4, 0.3, 0.25)}

    def __call__(self, images: Floats, draws: Draws, *, kept: float) -> Floats:
        """Return images of which the share ``kept`` of each side was kept."""
        height, width = images.shape[2:]

        def change(picture: Image.Image) -> Image.Image:
            few = picture.resize((int(width * kept), int(height * kept)), Image.Resampling.BOX)
            return few.resize((width, height), Image.Resampling.BOX)

        return by_picture(images, change)


plugin = Pixelate
