"""Shipped: the recipes, targets, comparisons and threat presets that come with the package, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

ShippedKind = Literal["recipes", "targets", "comparisons", "threats"]
PUBLISHED = "published"
"""Beside the comparisons: the figures that they may be printed with."""


def shipped_folder(kind: ShippedKind) -> Path:
    """Return the folder of shipped files: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    # The build puts the files there, since a wheel installs nothing beside its package.
    inside = package / f"_{kind}"
    return inside if inside.is_dir() else package.parent / kind


def ci_folder() -> Path:
    """Return the folder of CI jobs, ``examples/ci`` in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "_ci"
    return inside if inside.is_dir() else package.parent / "examples" / "ci"


def shipped_names(kind: ShippedKind) -> tuple[str, ...]:
    """Return the names that `load_recipe`, `load_target` or `load_comparison` knows without a path."""
    names = {path.stem for path in shipped_folder(kind).glob("*.yaml")}
    return tuple(sorted(names - {PUBLISHED} if kind == "comparisons" else names))
