"""Unpack zip and npz archives that somebody else may have made: bounded before anything is unpacked, no objects."""

from __future__ import annotations

import io
import math
import stat
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from robustdeploy.core.reading import size_text
from robustdeploy.errors import ArtifactError

Arrays = dict[str, npt.NDArray[Any]]

_END, _LOCATOR_64 = b"PK\x05\x06", b"PK\x06\x07"
_MOST_DIRECTORY = 2**20
"""Bytes of an archive's table of contents; some ten thousand entries."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MOST_HEADER = 10_000
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_KINDS = "biuf"
"""Kinds of dtype that hold numbers: booleans, whole numbers and floats."""


def unpacked(content: bytes, where: str, most: int) -> dict[str, bytes]:
    """Return the files of a zip archive by name; ``where`` names it in errors.

    Anything unsound is an ArtifactError: damage, encryption, links, folders, names that lead out of a folder, and
    files that would together be above ``most`` bytes, by what the archive declares or by what really comes out.
    """
    # First of all: merely to open an archive, zipfile makes an object of each of its entries.
    _check_directory(content, where)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            _check_entries(entries, where, most)
            # zipfile gives at most the size that an entry declares, and checks its sum at the end.
            return {entry.filename: archive.read(entry) for entry in entries}
    except ArtifactError:
        raise
    except Exception as error:  # zipfile answers damage with many kinds of errors
        raise ArtifactError(f"{where} is damaged: {error}") from error


def _check_directory(content: bytes, where: str) -> None:
    """Bound the table of contents, which zipfile reads whole into objects."""
    # The end record has 22 bytes and a comment of at most 64 KiB behind it.
    end = content.rfind(_END, max(0, len(content) - 66_000))
    if end < 0 or len(content) < end + 22:
        raise ArtifactError(f"{where} is damaged: it does not end as a zip archive does")
    size = int.from_bytes(content[end + 12 : end + 16], "little")
    # Of a ZIP64 archive the size stands elsewhere; ours never need that form.
    if size > _MOST_DIRECTORY or content[max(0, end - 20) : end].startswith(_LOCATOR_64):
        raise ArtifactError(f"{where} has a table of contents above {size_text(_MOST_DIRECTORY)}, so it is not ours")


def _check_entries(entries: Sequence[zipfile.ZipInfo], where: str, most: int) -> None:
    names: set[str] = set()
    for entry in entries:
        name = entry.filename
        parts = name.split("/")
        # Windows takes a backslash for a slash, and `C:` or a stream behind a colon for another place.
        if "\\" in name or ":" in name or not name.isprintable() or {"", ".", ".."} & set(parts):
            raise ArtifactError(f"{where} holds {name!r}, which is no plain name of a file")
        if name in names:
            raise ArtifactError(f"{where} holds {name!r} twice")
        names.add(name)
        # The upper half holds the mode of Unix, 0 where another system made the entry.
        mode = entry.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise ArtifactError(f"{where} holds {name!r} as a link, not as a file")
        # bzip2 and LZMA pack far more tightly, so a small archive may unpack for minutes.
        if entry.flag_bits & 1 or entry.compress_type not in _METHODS:
            raise ArtifactError(f"{where} holds {name!r} encrypted or packed in a way that is not ours")
    if (total := sum(entry.file_size for entry in entries)) > most:
        largest = max(entries, key=lambda entry: entry.file_size)
        raise ArtifactError(
            f"{where} would unpack to {size_text(total)} ({largest.filename!r} alone to "
            f"{size_text(largest.file_size)}), more than the {size_text(most)} that it can have, and was not unpacked"
        )


def arrays_from(content: bytes, where: str, most: int) -> Arrays:
    """Return the arrays of an npz file; objects, text and arrays of other size than declared are an ArtifactError."""
    files = unpacked(content, where, most)
    return {name.removesuffix(".npy"): _array(held, f"{name!r} in {where}") for name, held in files.items()}


def _array(content: bytes, where: str) -> npt.NDArray[Any]:
    stream = io.BytesIO(content)
    try:
        # Not `np.load`: for a header that claims a large shape it takes the memory before it looks for the data.
        read = _READERS[np.lib.format.read_magic(stream)]
        shape, by_columns, dtype = read(stream, max_header_size=_MOST_HEADER)
    except Exception as error:  # numpy answers damage with many kinds of errors
        raise ArtifactError(f"{where} is no array of numpy ({type(error).__name__})") from error
    if dtype.kind not in _KINDS:
        held = "pickled objects, which are never unpickled" if dtype.hasobject else f"{dtype}, which are no numbers"
        raise ArtifactError(f"{where} holds {held}")
    start = stream.tell()
    # Python's integers: numpy's own product overflows for a shape that is made to.
    if math.prod(shape) * dtype.itemsize != len(content) - start:
        raise ArtifactError(f"{where} says {dtype} of shape {shape} and holds {len(content) - start} bytes")
    # A copy, since an array over bytes cannot be written to.
    return np.frombuffer(content, dtype, offset=start).reshape(shape, order="F" if by_columns else "C").copy()


def check_arrays(arrays: Arrays, where: str, wanted: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Check that all of the ``wanted`` arrays are there, by name with dtype and shape, for equally many images.

    The shape is that of one image; ``arrays`` hold at least one. Anything else is an ArtifactError.
    """
    if missing := sorted(set(wanted) - set(arrays)):
        raise ArtifactError(f"{where} holds no array '{missing[0]}'")
    # An array without dimensions has no length.
    count = len(arrays[next(iter(wanted))]) if arrays[next(iter(wanted))].ndim else 0
    for name, (dtype, shape) in wanted.items():
        found = arrays[name]
        if found.dtype != dtype or found.shape != (count, *shape) or not count:
            raise ArtifactError(
                f"'{name}' in {where} is {found.dtype} of shape {found.shape}; it must be {dtype} of shape "
                f"{('n', *shape)}, with the same n ≥ 1 for all".replace("'n'", "n")
            )
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            raise ArtifactError(f"'{name}' in {where} holds values that are not finite")
