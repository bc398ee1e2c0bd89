"""Write files so that a crash leaves the old content or the new one, never a part of either; hash files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robustdeploy.core.reading import no_file
from robustdeploy.errors import ArtifactError, StorageError, UsageError
from robustdeploy.foreign import json_text

# EDQUOT is a quota, EROFS a disk that the kernel mounted read-only after an error.
_FULL = {errno.ENOSPC, errno.EDQUOT}
_STORAGE = _FULL | {errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EISDIR}


def canonical_json(value: Any) -> str:
    """Return the one JSON text that equal values share: sorted keys, no spaces; NaN and infinity are a ValueError."""
    # Fingerprints are hashes of this text, so equal settings must never be written in two ways.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of_text(text: str) -> str:
    """Return the SHA-256 of ``text`` in UTF-8, as hexadecimal digits."""
    # Paths that are no UTF-8 are lone surrogates in Python; strict encoding refuses them.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, as hexadecimal digits; what is no regular file is an ArtifactError."""
    # A pipe that nobody writes to would be waited for.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if found := no_file(os.fstat(handle).st_mode):
        os.close(handle)
        raise ArtifactError(f"cannot read {path}: it is {found}, not a file")
    with os.fdopen(handle, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def open_own(path: Path, flags: int) -> int:
    """Open a file of a run that is written in place; a link or a pipe where it should be is an ArtifactError.

    Through a link in a run that somebody sent, any file of the user's would be written to.
    """
    try:
        # O_NOFOLLOW guards only the last part of the path; the folders above are checked elsewhere.
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise
        raise ArtifactError(f"{path} is a link or no file, and nothing is written there; remove it") from error
    about = os.fstat(handle)
    # A hard link is no symbolic one, so O_NOFOLLOW lets it pass, and it may be any file of the user's.
    if no_file(about.st_mode) or about.st_nlink > 1:
        os.close(handle)
        raise ArtifactError(f"{path} is a link or no file, and nothing is written there; remove it")
    return handle


def hash_or_reason(path: Path) -> str:
    """Return the SHA-256 of a file's content, or why it cannot be read, which is no file's hash."""
    try:
        return sha256_of_file(path)
    except (OSError, ArtifactError) as error:
        return f"unknown ({getattr(error, 'strerror', None) or error})"


def lies_in(path: Path, folder: Path) -> bool:
    """Whether ``path`` lies in ``folder``, wherever links lead; what no path can be does not."""
    try:
        # `resolve` on both: the folder itself may be reached through a link.
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):
        return False


def _free_space(path: Path) -> str:
    there = next((p for p in (path, *path.parents) if p.exists()), Path())
    return f"{shutil.disk_usage(there).free / 2**20:,.1f} MiB free there"


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full, read-only or forbidden disk met while writing ``path`` into a StorageError with the free space."""
    try:
        yield
    except OSError as error:
        if error.errno not in _STORAGE:
            raise
        reason = (error.strerror or str(error)).lower()
        if error.errno in _FULL:
            reason, fix = f"{reason} ({_free_space(path)})", "make room"
        elif error.errno == errno.EFBIG:
            fix = "allow larger files (`ulimit -f unlimited`)"
        elif error.errno == errno.EISDIR:
            fix = "remove that folder"
        else:
            fix = "make it writable for this user"
        raise StorageError(f"cannot write {path}: {reason}; {fix} or choose another folder, then repeat") from error


def make_folder(path: Path) -> None:
    """Make a folder and all above it; where something else stands in its place, that is a UsageError that names it."""
    try:
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        there = next((p for p in (path, *path.parents) if not p.is_dir() and (p.exists() or p.is_symlink())), path)
        raise UsageError(f"{there} is no folder, and one is needed there; remove it, then repeat") from error


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Give a folder that is gone after the block; where there is no room for one, a StorageError names TMPDIR."""
    try:
        made = tempfile.TemporaryDirectory(prefix="robustdeploy-")
    except OSError as error:  # a full disk shows as "no usable temporary directory", too
        reason = (error.strerror or str(error)).lower()
        raise StorageError(
            f"there is no temporary folder to work in: {reason}; make room there or set TMPDIR to another folder"
        ) from error
    with made as folder:
        yield Path(folder)


def expanded(path: Path) -> Path:
    """Return ``path`` with ``~`` replaced by the home folder, or as it is where nobody has that home."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def sync_file(path: Path) -> None:
    """Force a file's content, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; it becomes ``path`` when the block ends, and vanishes if it raises.

    For libraries that write files themselves. The suffix stays, since some of them add a missing one.
    """
    # In the same folder, as a rename is one step only within one file system. The name is random, so that two processes
    # do not write into one file.
    beside = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    make_folder(path.parent)
    with storage_errors(path):
        try:
            yield beside
            # Before the rename: file systems may write the name first, and a power cut would leave an empty file under
            # it.
            sync_file(beside)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        # The rename is an entry of the folder, which is forced to the disk by itself.
        sync_file(path.parent)


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` in one step; a full or read-only disk is a StorageError."""
    with atomic_path(path) as beside:
        beside.write_bytes(content)


def atomic_write_text(path: Path, content: str) -> None:
    """Replace ``path`` by ``content`` in UTF-8 in one step."""
    atomic_write_bytes(path, content.encode(errors="surrogatepass"))


def atomic_write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as indented JSON in one step; NaN and infinity are a ValueError."""
    atomic_write_text(path, json_text(value, indent=2, allow_nan=False) + "\n")
