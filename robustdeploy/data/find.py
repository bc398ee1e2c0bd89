"""Find a data set: what is where ``data.path`` points, without reading images and without torch."""

from __future__ import annotations

from robustdeploy.core.recipe import Data
from robustdeploy.core.registry import DATA
from robustdeploy.data.images import Source


def find_source(spec: Data) -> Source:
    """Return the data set of ``spec``; a path that is missing, or of another layout, is a DataError."""
    path = spec.path.expanduser() if spec.path is not None else None
    source: Source = DATA.build(spec.name, {})(path, spec.size)
    return source
