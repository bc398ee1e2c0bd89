"""Read class folders of image files: ``train/<class>/…`` beside ``test/<class>/…`` or ``val/<class>/…``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from robustdeploy.data.decode import SUFFIXES, decode, probe
from robustdeploy.data.images import Images, Progress, Source, numbered
from robustdeploy.errors import DataError


def folder_source(path: Path, size: int | None, name: str, mirror: bool) -> Source:
    """Return the image folder at ``path``; its shape is read from the first image of each class."""
    train, test = path / "train", _test_folder(path)
    classes = _classes(train)
    if _classes(test) != classes:
        ours, theirs = set(classes), set(_classes(test))
        raise DataError(
            f"{train} and {test} have different classes: only in the first {sorted(ours - theirs)}, "
            f"only in the second {sorted(theirs - ours)}"
        )
    heads = [probe(_files(train / name)[0]) for name in classes]
    _, height, width = heads[0]
    shape = (max(head[0] for head in heads), size or height, size or width)
    read = partial(_read, classes=classes, shape=shape, resize=size is not None)
    return Source(
        name=name,
        classes=classes,
        image_shape=shape,
        mirror=mirror,
        train=partial(read, train),
        test=partial(read, test),
        count_test=lambda: sum(len(_files(test / name)) for name in classes),
    )


def _read(
    folder: Path,
    progress: Progress | None = None,
    *,
    classes: tuple[str, ...],
    shape: tuple[int, int, int],
    resize: bool,
) -> Images:
    import torch

    paths, labels = [], []
    for label, name in enumerate(classes):
        files = _files(folder / name)
        paths += files
        labels += [label] * len(files)
    return numbered(decode(paths, shape, resize, progress), torch.tensor(labels))


def _test_folder(path: Path) -> Path:
    for name in ("test", "val"):
        if (path / name).is_dir():
            return path / name
    raise DataError(f"there is no test or val folder in {path.absolute()}, found {_names(path)}")


def _classes(folder: Path) -> tuple[str, ...]:
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(names) < 2:
        raise DataError(f"{folder.absolute()} must hold one folder per class, at least two; found {_names(folder)}")
    return tuple(names)


def _files(folder: Path) -> list[Path]:
    """Return the image files of a class, by name, also from folders inside it."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not found:
        raise DataError(f"there is no image in {folder.absolute()} (looked for {', '.join(sorted(SUFFIXES))})")
    return found


def _names(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir())
    return (", ".join(names[:8]) + (", …" if len(names) > 8 else "")) or "nothing"
