"""Pictures: an image of a test set as text that a page can hold."""

from __future__ import annotations

import base64
import io

from PIL import Image

from robustdeploy.onboard.types import Bytes


def png(image: Bytes) -> str:
    """Return one C×H×W image as base64 PNG."""
    picture = Image.fromarray(image[0]) if len(image) == 1 else Image.fromarray(image.transpose(1, 2, 0))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
