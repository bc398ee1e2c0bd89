"""An engine: a folder of one or more plain files, told by their names, hashes and sizes on board and host alike."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import ArtifactError
from .store import MOST_BYTES, is_plain_name, sha256_of

MOST_FILES = 256
_SHA = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class EngineFile:
    """One file of an engine. What cannot be one is a ValueError, wherever the list comes from."""

    name: str
    """A plain name, so that it never leaves the folder that it is put into."""
    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        if not is_plain_name(self.name):
            plain = "letters, digits, '.', '_' and '-' only, with a letter or digit first"
            raise ValueError(f"{str(self.name)[:100]!r} is not a plain file name: {plain}")
        if not isinstance(self.sha256, str) or not _SHA.fullmatch(self.sha256):
            raise ValueError(f"the hash of {self.name} is not a SHA-256 in lower-case hex: {str(self.sha256)[:80]!r}")
        if type(self.bytes) is not int or not 1 <= self.bytes <= MOST_BYTES:
            raise ValueError(f"{self.name} must have 1 to {MOST_BYTES:,} bytes, not {str(self.bytes)[:30]}")


Files = tuple[EngineFile, ...]


def checked_files(files: Iterable[EngineFile]) -> Files:
    """Return ``files`` in the order of their names; a ValueError where they cannot be one engine's."""
    held = tuple(sorted(files, key=lambda file: file.name))
    if not 1 <= len(held) <= MOST_FILES:
        raise ValueError(f"an engine has 1 to {MOST_FILES} files, not {len(held)}")
    # Names that differ in case alone are one file where a host's disk does not tell them apart.
    folded = [file.name.lower() for file in held]
    if twice := next((name for name in folded if folded.count(name) > 1), None):
        raise ValueError(f"an engine has two files of one name: {twice}")
    if (total := size_of(held)) > MOST_BYTES:
        raise ValueError(f"an engine has at most {MOST_BYTES:,} bytes in all, not {total:,}")
    return held


def size_of(files: Iterable[EngineFile]) -> int:
    """Return how many bytes all ``files`` have together."""
    return sum(file.bytes for file in files)


def engine_id(files: Iterable[EngineFile]) -> str:
    """Return the one name of an engine: the SHA-256 over the names and hashes of its files, in the order of names."""
    # JSON with its quotes keeps names and hashes apart, so that no two different lists give the same text.
    listed = sorted([file.name, file.sha256] for file in files)
    return hashlib.sha256(json.dumps(listed, separators=(",", ":")).encode("ascii")).hexdigest()


def files_in(folder: Path) -> Files:
    """List the engine that lies in ``folder``; ArtifactError where that holds anything but an engine's plain files."""
    found = []
    try:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            # A link would be hashed as what it leads to now, and could lead elsewhere when the engine is opened.
            if not entry.is_file(follow_symlinks=False):
                kind = "a link" if entry.is_symlink() else "a folder" if entry.is_dir() else "no regular file"
                raise ValueError(f"{entry.name!r} is {kind}, and an engine is plain files in one folder")
            path = Path(entry.path)
            found.append(EngineFile(entry.name, sha256_of(path), path.stat().st_size))
        return checked_files(found)
    except ValueError as error:
        raise ArtifactError(f"the folder of the engine is refused: {error}") from None


def file_of(engine: Path, name: str) -> Path:
    """Return the file ``name`` of the engine in the folder ``engine``; ArtifactError where it has none."""
    path = engine / name
    if not path.is_file():
        there = ", ".join(sorted(entry.name for entry in os.scandir(engine))) if engine.is_dir() else ""
        raise ArtifactError(f"the engine has no file {name} (it has: {there or 'none'}); compile it again")
    return path
