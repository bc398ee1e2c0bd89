"""The box: what an adversarial image may be. Attacks propose; here images are made valid, and checked in integers."""

from __future__ import annotations

from robustdeploy.onboard.ball import outside, rounded
from robustdeploy.onboard.types import Bytes, Threat


def project(images: Bytes, proposals: Bytes, threat: Threat) -> Bytes:
    """Move each proposed image into the threat's ball around ``images``; in ℓ∞ to the nearest one there."""
    return rounded(images, proposals, threat)


def violations(images: Bytes, adversarial: Bytes, threat: Threat) -> int:
    """Count images that are further away than the threat allows, in whole grey levels."""
    return int(outside(images, adversarial, threat).sum()) if len(images) else 0
