"""Find a data set: what is where ``data.path`` points, without reading images and without torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from robustdeploy.core.files import expanded
from robustdeploy.core.recipe import Data
from robustdeploy.core.registry import DATA
from robustdeploy.data.images import DataPlugIn, Source

_found: ContextVar[dict[object, Source] | None] = ContextVar("found", default=None)


def find_source(spec: Data) -> Source:
    """Return the data set of ``spec``; a path that is missing, or of another layout, is a DataError."""
    path = expanded(spec.path) if spec.path is not None else None
    known = _found.get()
    key = (spec.name, repr(spec.options), path, spec.size)
    if known is not None and key in known:
        return known[key]
    data_set: DataPlugIn = DATA.build(spec.name, spec.options)
    source = data_set(path, spec.size)
    if known is not None:
        known[key] = source
    return source


@contextmanager
def looking_once() -> Iterator[None]:
    """Look for each data set once in the block: to list a million files takes minutes, and several checks ask for them.

    A block inside another goes on with what that has found. Where either ends all is forgotten, so that hours of
    training later the folder is looked at again.
    """
    outer = _found.get()
    token = _found.set({}) if outer is None else None
    try:
        yield
    finally:
        if token is not None:
            _found.reset(token)
        elif outer is not None:
            outer.clear()
