"""Replay set: a folder of adversarial images that earlier runs found, each with where it comes from, to be tried again.

``replay.json`` names the file of the images by its hash, and is itself sealed by one. Images are deduplicated by
content: the same image for the same clean image and label is held once, as the first run that found it told it.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from robustdeploy.core.archive import arrays_from, check_arrays
from robustdeploy.core.complaint import complaint
from robustdeploy.core.files import atomic_write_bytes, atomic_write_json, canonical_json, make_folder, sha256_of_text
from robustdeploy.core.model import Noun
from robustdeploy.core.reading import read_bounded, read_json
from robustdeploy.errors import ArtifactError, UsageError
from robustdeploy.onboard.ball import outside
from robustdeploy.onboard.types import Bytes, Labels, Threat

MANIFEST = "replay.json"
_MOST_BYTES = 2**36
_MOST_JSON = 2**26
_MEND = "restore it from a copy, or collect it anew into another folder"

Hashes = npt.NDArray[np.uint8]
"""SHA-256 of each image, N×32."""


class Origin(Noun):
    """Where images come from."""

    run: str
    """Name of the run."""
    subject: str
    """What they were found for, e.g. ``pruned/int8@host-cpu``."""
    attack: str
    """Label of the attack."""
    eps: float
    """Radius of the run's threat, in pixels of [0, 1]."""
    norm: str = "linf"
    """Its norm."""


class _Manifest(Noun):
    """The content of ``replay.json``."""

    schema_version: Literal[1]
    images: Annotated[str, Field(pattern=r"^images-[0-9a-f]{16}\.npz$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    n: Annotated[int, Field(ge=1)]
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    origins: tuple[Origin, ...]
    seal: str
    """SHA-256 of all the fields above, as canonical JSON."""


@dataclass(frozen=True)
class ReplaySet:
    """Images that somebody found once. All arrays have one row per image."""

    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    origins: tuple[Origin, ...]
    images: Bytes
    labels: Labels
    clean: Hashes
    """SHA-256 of the clean image that each was found for."""
    index: Labels
    """Place of that image in its test set, as its run told it."""
    origin: Labels
    """Place of its origin among ``origins``."""

    @property
    def digest(self) -> str:
        """SHA-256 of the images and what they were found for."""
        digest = hashlib.sha256()
        for part in (self.images, self.labels, self.clean):
            digest.update(part.tobytes())
        return digest.hexdigest()

    def check_fits(self, image_shape: Sequence[int], classes: Sequence[str], where: str) -> None:
        """Raise a UsageError where its images are of another shape, or of other classes, than a net reads."""
        if tuple(image_shape) != self.image_shape:
            theirs, ours = ("×".join(map(str, shape)) for shape in (self.image_shape, image_shape))
            raise UsageError(f"{where} holds images of {theirs}, and the net reads {ours}; name the set of this data")
        if tuple(classes) != self.classes:
            raise UsageError(
                f"{where} is of the classes {_few(self.classes)}, and the net tells {_few(classes)}; name the set of "
                "this data"
            )

    def belonging(self, images: Bytes, labels: Labels, threat: Threat) -> Belonging:
        """Return which of these images may be tried again on test ``images`` under ``threat``."""
        names = zip(hashes(images), labels, strict=True)
        places = {(bytes(one), int(label)): at for at, (one, label) in enumerate(names)}
        keys = zip(self.clean, self.labels, strict=True)
        of = np.array([places.get((bytes(one), int(label)), -1) for one, label in keys], np.int64)
        known = np.flatnonzero(of >= 0)
        # In whole grey levels, as every stored image is checked.
        inside = ~outside(images[of[known]], self.images[known], threat) if len(known) else np.zeros(0, np.bool_)
        rows = known[inside]
        return Belonging(rows, of[rows], len(of) - len(known), int((~inside).sum()))

    def added(self, others: Iterable[ReplaySet]) -> ReplaySet:
        """Return a set that also holds the images of ``others`` that are not here yet."""
        whole = self
        for other in others:
            whole = whole._joined(other)
        return whole

    def _joined(self, other: ReplaySet) -> ReplaySet:
        held = set(self._keys())
        new = []
        for row, name in enumerate(other._keys()):
            if name not in held:
                held.add(name)
                new.append(row)
        if not new:
            return self
        origins = list(self.origins)
        # Of those alone that have given an image, so that what adds none changes nothing.
        number = {}
        for one in dict.fromkeys(other.origin[new].tolist()):
            origin = other.origins[one]
            origins += [] if origin in origins else [origin]
            number[one] = origins.index(origin)
        moved = np.array([number[one] for one in other.origin[new].tolist()], np.int64)
        arrays = {name: np.concatenate([getattr(self, name), getattr(other, name)[new]]) for name in _ARRAYS[:-1]}
        return ReplaySet(
            self.image_shape, self.classes, tuple(origins), **arrays, origin=np.concatenate([self.origin, moved])
        )

    def _keys(self) -> list[bytes]:
        own = hashes(self.images)
        return [
            bytes(clean) + bytes(image) + int(label).to_bytes(8, "little", signed=True)
            for clean, image, label in zip(self.clean, own, self.labels, strict=True)
        ]


@dataclass(frozen=True)
class Belonging:
    """Which images of a set may be tried again on some test images."""

    rows: Labels
    """Places in the set."""
    of: Labels
    """The test image that each is of, by its place among these."""
    of_others: int
    """Images that are of none of these test images."""
    outside: int
    """Images that are of one of them, and leave its ball."""


_ARRAYS = ("images", "labels", "clean", "index", "origin")


def empty(image_shape: Sequence[int], classes: Sequence[str]) -> ReplaySet:
    """Return a set without images, to be added to."""
    channels, height, width = image_shape
    shape = (channels, height, width)
    nothing, images = np.zeros(0, np.int64), np.zeros((0, *shape), np.uint8)
    return ReplaySet(shape, tuple(classes), (), images, nothing, hashes(images), nothing, nothing)


def hashes(images: Bytes) -> Hashes:
    """Return the SHA-256 of each image's shape and pixels, N×32."""
    shape = "×".join(map(str, images.shape[1:])).encode()
    told = b"".join(hashlib.sha256(shape + image.tobytes()).digest() for image in images)
    return np.frombuffer(told, np.uint8).reshape(len(images), 32)


def is_replay_set(folder: Path) -> bool:
    """Whether a folder is one of these."""
    return (folder / MANIFEST).is_file()


def check_replay_set(folder: Path) -> None:
    """Raise a UsageError where ``folder`` is none of these, by its files alone."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; `robustdeploy collect RUN --into FOLDER` makes a replay set")
    if not is_replay_set(folder):
        raise UsageError(f"{folder} holds no {MANIFEST}, so it is no replay set; `robustdeploy collect` makes one")


def check_room(folder: Path) -> None:
    """Raise a UsageError where a set cannot be written to ``folder``, since something else is there."""
    if folder.exists() and not is_replay_set(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there and is no replay set; choose a new folder, or an empty one")


def read_replay_set(folder: Path) -> ReplaySet:
    """Read a replay set; a folder that is none is a UsageError, one that is damaged or edited an ArtifactError."""
    check_replay_set(folder)
    where = folder / MANIFEST
    try:
        manifest = _Manifest.model_validate(read_json(where, _MOST_JSON))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise ArtifactError(f"{where}: {place} {complaint(first, _Manifest)}; {_MEND}") from error
    if _seal(manifest.model_dump(mode="json")) != manifest.seal:
        raise ArtifactError(f"{where} is not as it was sealed, so it was edited; {_MEND}")
    path = folder / manifest.images
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; {_MEND}")
    content = read_bounded(path, _MOST_BYTES)
    if hashlib.sha256(content).hexdigest() != manifest.sha256:
        raise ArtifactError(f"{path} is not the file that {MANIFEST} names, so it was changed; {_MEND}")
    arrays = arrays_from(content, str(path), _MOST_BYTES)
    wanted = {"images": ("uint8", manifest.image_shape), "clean": ("uint8", (32,))}
    wanted |= dict.fromkeys(("labels", "index", "origin"), ("int64", ()))
    check_arrays(arrays, str(path), wanted)
    for name, most in (("labels", len(manifest.classes)), ("origin", len(manifest.origins))):
        if arrays[name].min() < 0 or arrays[name].max() >= most:
            raise ArtifactError(f"'{name}' in {path} must be 0 to {most - 1}; {_MEND}")
    return ReplaySet(
        manifest.image_shape, manifest.classes, manifest.origins, **{name: arrays[name] for name in _ARRAYS}
    )


def write_replay_set(folder: Path, replays: ReplaySet) -> None:
    """Write a replay set; a kill at any moment leaves the one before, or this one.

    Raises a UsageError for a folder with other files in it, which would not be told from those of the set.
    """
    check_room(folder)
    make_folder(folder)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: getattr(replays, name) for name in _ARRAYS})
    content = buffer.getvalue()
    sha256 = hashlib.sha256(content).hexdigest()
    name = f"images-{sha256[:16]}.npz"
    atomic_write_bytes(folder / name, content)
    told: dict[str, Any] = {"schema_version": 1, "images": name, "sha256": sha256, "n": len(replays.images)}
    told |= {"image_shape": list(replays.image_shape), "classes": list(replays.classes)}
    told |= {"origins": [origin.model_dump(mode="json") for origin in replays.origins]}
    atomic_write_json(folder / MANIFEST, {**told, "seal": _seal(told)})
    # Named by nothing any more; until now it was what a kill would have left.
    for path in folder.glob("images-*.npz"):
        if path.name != name:
            path.unlink()


def size_of(folder: Path) -> int:
    """Return how many bytes the files of a set take."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _seal(told: dict[str, Any]) -> str:
    return sha256_of_text(canonical_json({name: value for name, value in told.items() if name != "seal"}))


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
