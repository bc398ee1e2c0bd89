"""Read class folders of image files: ``train/<class>/…`` beside ``test/<class>/…`` or ``val/<class>/…``."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from robustdeploy.data.decode import SUFFIXES, probe, read_images
from robustdeploy.data.images import Images, Progress, Reading, Source
from robustdeploy.errors import DataError
from robustdeploy.foreign import one_line

_NOT_CLASSES = frozenset({"__MACOSX", "@eaDir", "lost+found"})
"""Folders that other programs leave behind."""


def folder_source(path: Path, size: int | None, name: str, mirror: bool) -> Source:
    """Return the image folder at ``path``; its shape is read from the first sound image of each class."""
    train, test = path / "train", _test_folder(path)
    classes, theirs = _classes(train), _classes(test)
    # Labels are places in the list of classes; with different lists a test would compare apples with pears.
    if set(classes) != set(theirs):
        alone = ((test, set(classes) - set(theirs)), (train, set(theirs) - set(classes)))
        told = "; ".join(f"{folder} lacks {_some(sorted(names))}" for folder, names in alone if names)
        raise DataError(
            f"{train} and {test} have different classes: {told}; give every class a folder with images in both"
        )
    (files, others), (test_files, test_others) = _files_of(classes), _files_of(theirs)
    heads = [_head(files[label]) for label in files]
    # The usual size of them: else one odd image at the front would have all others told as odd.
    ((height, width), _), *_ = Counter(head[1:] for head in heads).most_common()
    # Colour if any class has it: grey becomes colour without a loss, and not the other way round.
    shape = (max(head[0] for head in heads), size or height, size or width)
    read = partial(_read, shape=shape, resize=size is not None)
    return Source(
        name=name,
        classes=tuple(files),
        image_shape=shape,
        mirror=mirror,
        train=partial(read, files, others),
        test=partial(read, {label: test_files[label] for label in files}, test_others),
        count_test=lambda: sum(map(len, test_files.values())),
    )


def _read(
    files: Mapping[str, list[Path]],
    others: Counter[str],
    progress: Progress | None = None,
    *,
    shape: tuple[int, int, int],
    resize: bool,
) -> Images:
    paths = [path for held in files.values() for path in held]
    labels = [label for label, held in enumerate(files.values()) for _ in held]
    images = read_images(paths, labels, shape, resize, progress)
    if others:
        told = ", ".join(f"{count:,} {suffix or 'without suffix'}" for suffix, count in _most(others))
        passed_over = {f"or other files passed over for their suffix ({told})": others.total()}
        images = replace(images, reading=Reading(images.reading.unreadable, {**images.reading.changes, **passed_over}))
    return images


def _head(paths: list[Path]) -> tuple[int, int, int]:
    """Return what the first sound image of a class says of its shape."""
    # A few damaged files are left for the reading, which tells of all of them together.
    for path in paths[:100]:
        try:
            return probe(path)
        except DataError:
            continue
    return probe(paths[0])


def _test_folder(path: Path) -> Path:
    for name in ("test", "val"):
        if (path / name).is_dir():
            return path / name
    raise DataError(f"there is no test or val folder in {path.absolute()}, found {names_in(path)}")


def _classes(folder: Path) -> dict[str, Path]:
    """Return the folders of the classes by the classes' names, in the names' order."""
    found: dict[str, Path] = {}
    alike: dict[str, str] = {}
    for entry in sorted(_entries(folder), key=lambda entry: entry.name):
        if entry.name.startswith(".") or entry.name in _NOT_CLASSES or not entry.is_dir():
            continue
        # File systems spell letters with accents in two ways; a class is the same class in both.
        name = unicodedata.normalize("NFC", entry.name)
        if one_line(name) != name:
            raise DataError(f"the class folder {one_line(entry.path)} has a name that cannot be shown; rename it")
        # On a file system without case the two would be one folder, and the same archive gives two different data sets.
        if (other := alike.setdefault(name.casefold(), entry.name)) != entry.name:
            raise DataError(
                f"the class folders '{other}' and '{entry.name}' in {folder.absolute()} have the same name but for "
                "its case or spelling; join them, or give them different names"
            )
        found[name] = Path(entry.path)
    if len(found) < 2:
        raise DataError(f"{folder.absolute()} must hold one folder per class, at least two; found {names_in(folder)}")
    # Sorted by code point, not by locale: the order is that of the logits, on every machine.
    return dict(sorted(found.items()))


def _files_of(classes: Mapping[str, Path]) -> tuple[dict[str, list[Path]], Counter[str]]:
    """Return the image files of every class, by name, also from folders inside it; and the suffixes of other files."""
    files: dict[str, list[Path]] = {}
    others: Counter[str] = Counter()
    real = {Path(os.path.realpath(place)): name for name, place in classes.items()}
    above = {folder for place in real for folder in place.parents}
    for name, place in classes.items():

        def strays(folder: Path, name: str = name) -> bool:
            return folder in above or any(real.get(each, name) != name for each in (folder, *folder.parents))

        found = list(_walk(place, strays))
        # The order in which a system lists files differs from machine to machine, and ids are places in this list.
        files[name] = sorted(path for path, is_image in found if is_image)
        others.update(one_line(path.suffix.lower())[:10] for path, is_image in found if not is_image)
    if empty := [str(classes[name].absolute()) for name, held in files.items() if not held]:
        more = f" and {len(empty) - 10} more" if len(empty) > 10 else ""
        raise DataError(
            f"there is no image in {', '.join(empty[:10])}{more} (looked for {', '.join(sorted(SUFFIXES))})"
        )
    return files, others


def _most(found: Counter[str]) -> list[tuple[str, int]]:
    return sorted(found.items(), key=lambda item: (-item[1], not item[0], item[0]))[:5]


def _walk(folder: Path, strays: Callable[[Path], bool], within: tuple[str, ...] = ()) -> Iterator[tuple[Path, bool]]:
    """Files below ``folder``, each with whether its name is an image's; links are followed, though never in circles.

    One that leads where it ``strays``, to images of other classes, is a DataError.
    """
    # By real path, as a link into a folder above would go round for ever under new names.
    own = os.path.realpath(folder)
    if own in within:
        return
    if strays(Path(own)):
        raise DataError(
            f"{one_line(folder.absolute())} leads to images of other classes, in {one_line(own)}; remove that link"
        )
    for entry in _entries(folder):
        if entry.name.startswith(".") or entry.name in _NOT_CLASSES:
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), strays, (*within, own))
        else:
            yield Path(entry.path), Path(entry.name).suffix.lower() in SUFFIXES


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(f"cannot read the folder {one_line(folder.absolute())}: {error.strerror}") from error


def names_in(folder: Path) -> str:
    """Return the first names of what lies in a folder, for a sentence."""
    return _some(sorted(one_line(p.name) for p in folder.iterdir())) or "nothing"


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8:,} more" if len(names) > 8 else "")
