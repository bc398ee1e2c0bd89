"""Any images of yours: train/<class>/… and test/<class>/… (or val), of one size or resized to data.size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from robustdeploy.data.image_folder import folder_source, names_in
from robustdeploy.data.images import Source, needed
from robustdeploy.errors import DataError

_LAYOUT = "a folder with train/<class>/*.png (or jpg …) and test/<class>/… or val/<class>/…"


@dataclass(frozen=True)
class Folder:
    """Class folders of image files; grey if the first image of every class is grey, colour otherwise.

    Mean and spread are computed from the training images. Images are not mirrored: nobody knows if they may be.
    """

    def __call__(self, path: Path | None, size: int | None) -> Source:
        """Return the source at ``path``; with ``size`` images become squares of that side, whatever their shape."""
        folder = needed(path, "folder", _LAYOUT)
        if not (folder / "train").is_dir():
            there = f"there is no train folder in {folder.absolute()}, found {names_in(folder)}"
            raise DataError(f"data set 'folder': {there}; expected {_LAYOUT}")
        return folder_source(folder, size, folder.absolute().name, mirror=False)


plugin = Folder
