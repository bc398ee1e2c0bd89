"""The box: what an adversarial image may be. Attacks propose; here images are made valid, and checked in integers."""

from __future__ import annotations

import numpy as np

from robustdeploy.onboard.types import Bytes, Threat


def project(images: Bytes, proposals: Bytes, threat: Threat) -> Bytes:
    """Move each proposed pixel to the nearest 8-bit value inside the threat's box around ``images``."""
    low, high = threat.box(images)
    # Coordinate by coordinate, the projection to the nearest point of an l-infinity ball is a clip.
    return np.clip(proposals, low, high)


def violations(images: Bytes, adversarial: Bytes, threat: Threat) -> int:
    """Count images with any pixel further than the threat allows, in whole grey levels."""
    # uint8 would wrap around: 3 - 8 is 251 there.
    apart = np.abs(images.astype(np.int16) - adversarial.astype(np.int16))
    return int((apart.reshape(len(images), -1).max(1) > threat.levels).sum()) if len(images) else 0
