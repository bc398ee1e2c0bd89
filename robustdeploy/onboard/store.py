"""Files on a board by the hash of their content: they come in pieces and are checked whenever they are used."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArtifactError, BoardError, UsageError

if TYPE_CHECKING:
    from .engine import EngineFile

_SHA = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MOST_BYTES = 8 << 30
"""The most that one file may hold."""
PIECE_BYTES = 4 << 20
"""The most that travels at once, either way."""
_AT_ONCE = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def is_full(error: OSError) -> bool:
    """Say whether a disk that takes no more caused ``error``."""
    return error.errno in _FULL


def is_plain_name(name: Any) -> bool:
    """Say whether ``name`` names a file in a folder and nothing else, on every system."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_AT_ONCE):
            digest.update(piece)
    return digest.hexdigest()


@dataclass(frozen=True)
class Store:
    """A folder in which each file is named by its hash; nothing from a request becomes a path."""

    folder: Path

    def has(self, sha256: Any) -> bool:
        """Say whether the content with this hash is here and whole; a damaged file is dropped."""
        path = self.folder / _checked(sha256)
        # Power cuts and worn SD cards damage files on boards, so a name alone proves nothing.
        if path.is_file() and sha256_of(path) == sha256:
            return True
        path.unlink(missing_ok=True)
        return False

    def path(self, sha256: Any) -> Path:
        """Return the file with this hash after hashing it again; ArtifactError where it is missing or was changed."""
        path = self.folder / _checked(sha256)
        if not path.is_file():
            raise ArtifactError(f"the board has no file with hash {sha256}; send or compile it first")
        if (found := sha256_of(path)) != sha256:
            raise ArtifactError(f"a file on the board has hash {found}, not {sha256}: it was changed; send it again")
        return path

    def put(self, name: Any, sha256: Any, offset: Any, total: Any, data: bytes) -> int:
        """Append a piece of a file and return how much of it is here; the last piece makes it whole and checks it."""
        if not is_plain_name(name):
            raise UsageError(f"{str(name)[:100]!r} is not a plain file name: letters, digits, '.', '_' and '-' only")
        whole = type(offset) is int and type(total) is int
        if not (whole and 0 <= offset <= offset + len(data) <= total <= MOST_BYTES):
            raise UsageError(f"a piece of {name} does not fit: {len(data)} bytes at {offset} of {total}")
        part = self.folder / f"{_checked(sha256)}.part"
        # A part that an interrupted transfer left is overwritten: the first piece always starts anew.
        here = part.stat().st_size if offset and part.exists() else 0
        if here != offset:
            raise BoardError(f"a piece of {name} for byte {offset} came, the board holds {here} bytes; send it from 0")
        try:
            with part.open("ab" if offset else "wb") as file:
                file.write(data)
        except OSError:
            part.unlink(missing_ok=True)  # half a file is of no use, and takes the room that is short
            raise
        if offset + len(data) == total:
            self._finish(part, name, str(sha256))
        return len(data) + int(offset)

    def get(self, sha256: Any, offset: Any) -> tuple[bytes, int]:
        """Return the piece of a file that begins at ``offset``, and the size of the whole."""
        # Hashing the whole file for each of its pieces would take too long; whoever gets it hashes what came.
        path = self.path(sha256) if offset == 0 else self.folder / _checked(sha256)
        if not path.is_file():
            raise ArtifactError(f"the board has no file with hash {sha256}; send or compile it first")
        total = path.stat().st_size
        if type(offset) is not int or not 0 <= offset <= total:
            raise UsageError(f"there is no piece at byte {str(offset)[:30]} of a file of {total} bytes")
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(PIECE_BYTES), total

    def assemble(self, files: Iterable[EngineFile], folder: Path) -> None:
        """Make ``folder`` anew with these files of the store in it, each under its name and checked by its hash."""
        # An agent that was killed may have left another engine's files there.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for file in files:
            path = self.path(file.sha256)
            if (found := path.stat().st_size) != file.bytes:
                raise ArtifactError(f"{file.name} has {found} bytes on the board, not {file.bytes}; build it again")
            try:
                # A copy of a large engine would take seconds and room that a board may not have.
                os.link(path, folder / file.name)
            except OSError as error:
                if is_full(error):
                    raise
                shutil.copyfile(path, folder / file.name)  # a file system without hard links, as on an SD card

    def import_net(self, path: Path) -> str:
        """Move a finished file in and return its hash."""
        sha256 = sha256_of(path)
        path.replace(self.folder / sha256)
        return sha256

    def full(self, error: OSError) -> str:
        """Say that the disk takes no more, and what to do."""
        free = shutil.disk_usage(self.folder).free >> 20
        reason = (error.strerror or str(error)).lower()
        return f"{reason} in {self.folder} ({free} MiB free there); make room or set the link's folder"

    def _finish(self, part: Path, name: str, sha256: str) -> None:
        if (found := sha256_of(part)) != sha256:
            part.unlink()
            raise ArtifactError(f"{name} arrived with hash {found}, not {sha256}; send it again")
        # Only whole and checked content gets this name: a kill before leaves a part, which nobody takes for the file.
        part.replace(self.folder / sha256)


def _checked(sha256: Any) -> str:
    if not isinstance(sha256, str) or not _SHA.fullmatch(sha256):
        raise UsageError(f"{str(sha256)[:80]!r} is not a SHA-256 in lower-case hex")
    return sha256
