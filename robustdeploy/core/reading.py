"""Read what somebody else may have written: whole regular files of a bounded size, and JSON that cannot do harm."""

from __future__ import annotations

import json
import math
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from robustdeploy.errors import ArtifactError
from robustdeploy.onboard.wire import nests_deeper

MOST_JSON = 256 * 2**20
"""Bytes of the largest document that a run holds; those with every latency sample are the largest."""
MOST_LEVELS = 64
"""Lists and objects inside one another; what reads them calls itself once for each."""
MOST_DIGITS = 40
_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))


def size_text(size: int) -> str:
    """Return a number of bytes as people read it."""
    for unit, bytes_ in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= bytes_:
            return f"{size / bytes_:,.1f} {unit}"
    return f"{size} bytes"


def no_file(mode: int) -> str:
    """Return what the thing of ``mode`` is where it is no regular file, or nothing for one."""
    if stat.S_ISREG(mode):
        return ""
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "a device")


def read_bounded(path: Path, most: int = MOST_JSON, *, growing: bool = False) -> bytes:
    """Return a file's content; what is missing, no regular file, or above ``most`` bytes is an ArtifactError.

    So is one that changes meanwhile; of one that is only ever ``growing``, what was there at first is returned.
    """
    try:
        # A pipe that nobody writes to would block for ever; what is open cannot be swapped for one any more.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing") from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    about = os.fstat(handle)
    if found := no_file(about.st_mode):
        os.close(handle)
        raise ArtifactError(f"cannot read {path}: it is {found}, not a file")
    with os.fdopen(handle, "rb") as stream:
        # Asked of the open file and not of the path, which could be another file by now.
        if about.st_size > most:
            raise ArtifactError(
                f"{path} has {size_text(about.st_size)}, more than the {size_text(most)} that such a file can have, "
                "and was not read"
            )
        # One byte more than there should be: a file that grows while it is read is noticed.
        content = stream.read(about.st_size + (not growing))
    if len(content) != about.st_size:
        raise ArtifactError(f"{path} changed while it was read")
    return content


def read_json(path: Path, most: int = MOST_JSON) -> Any:
    """Return what a JSON file holds; anything wrong with it is an ArtifactError that names the file."""
    return parse_json(read_bounded(path, most), str(path))


def parse_json(content: bytes, where: str) -> Any:
    """Return what JSON in UTF-8 holds; anything wrong with it, as `values_from` finds it, is an ArtifactError."""
    try:
        return values_from(content)
    except ValueError as error:
        raise ArtifactError(f"{where} is no sound JSON: {error}; it was damaged or edited") from error


def values_from(content: bytes | str) -> Any:
    """Return what JSON holds. What is damaged is a ValueError that says why.

    So are numbers that are not finite or too long, keys that stand twice in one object, and deep nesting.
    """
    # Python reads NaN, Infinity and 1e999 as numbers, and a NaN slips through every check of a range.
    hooks: dict[str, Any] = {"parse_constant": _refused, "parse_float": _finite, "parse_int": _whole}
    try:
        document = json.loads(content, object_pairs_hook=_without_twins, **hooks)
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error
    if nests_deeper(document, MOST_LEVELS):
        raise ValueError("it nests too deeply")
    return document


def _whole(text: str) -> int:
    # Python's conversion of long numbers takes time that grows with the square of their length.
    if len(text) > MOST_DIGITS:
        raise ValueError(f"it holds a number of {len(text):,} digits")
    return int(text)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Readers differ in which of two equal keys they take, so one file could mean two things.
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key '{twice[:80]}' stands twice in one object")
    return found


def _refused(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds {text[:20]}, which no number can be")
    return value
