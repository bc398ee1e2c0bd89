"""How a toolchain is installed: by its packages on a board, by an extra where robustdeploy itself is installed."""

from __future__ import annotations


def to_install(packages: str, extra: str) -> str:
    """Return the words of a fix; ``extra`` of robustdeploy has ``packages`` in the versions that were tried."""
    return f"python3 -m pip install {packages} (beside robustdeploy itself: pip install 'robustdeploy[{extra}]')"
