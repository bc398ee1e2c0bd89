"""Launch: whether torchrun started this process together with others, by the variables it sets. No torch needed."""

from __future__ import annotations

import os


def launched() -> bool:
    """Whether torchrun (or a launcher that sets the same variables) started this process with others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def follows() -> bool:
    """Whether this process was started to train along with another one that leads."""
    return launched() and int(os.environ.get("RANK", "0")) > 0
