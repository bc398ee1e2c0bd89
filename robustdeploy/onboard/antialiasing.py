"""Antialiasing: toolchains that resize without it, and say nothing, would build another net than the file is."""

from __future__ import annotations

from ..errors import ArtifactError


def left_out(toolchain: str, file: str) -> ArtifactError:
    """Return the refusal of ``file``, whose Resize the ``toolchain`` would compute otherwise."""
    return ArtifactError(
        f"{toolchain} leaves out the antialiasing of a Resize in {file}; resize without it (antialias: false, or "
        "interpolation: area, in the recipe's preprocess)"
    )
