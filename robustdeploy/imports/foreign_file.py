"""A file with a net that others trained, whatever its kind, turned into a stored net."""

from __future__ import annotations

from pathlib import Path

from robustdeploy.core.given import kind_of_net
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.trust import Trust
from robustdeploy.data.load import Loaded
from robustdeploy.errors import ArtifactError
from robustdeploy.imports.asked import Asked
from robustdeploy.imports.checkpoint import import_checkpoint
from robustdeploy.imports.onnx_net import import_onnx
from robustdeploy.nets.store import NetInfo

_POINTER = b"version https://git-lfs"


def import_file(
    path: Path, asked: Asked, recipe: Recipe, data: Loaded, folder: Path, trust: Trust = False
) -> tuple[NetInfo, tuple[str, ...]]:
    """Write the net in ``path`` into ``folder`` as a stored net; return what it is, and what was found, in sentences.

    What is no classifier of the images of ``data``, or is damaged, is a UsageError that says what to do.
    """
    kind = kind_of_net(path)
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise ArtifactError(f"{path} is a pointer of Git LFS and not the net; fetch that: git lfs pull")
    if kind == "onnx":
        return import_onnx(path, asked, recipe, data, folder)
    return import_checkpoint(path, asked, recipe, data, folder, trust)
