"""Parts: finished pieces of an evaluation, sealed one by one so that a kill costs at most the piece in work."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robustdeploy.core.archive import Arrays, arrays_from
from robustdeploy.core.files import atomic_write_bytes, sha256_of_file
from robustdeploy.core.reading import read_bounded
from robustdeploy.engine.ledger import Ledger
from robustdeploy.engine.seal import PARTS

_MOST_BYTES = 2**36
"""Only what the ledger names by its hash is read; this bounds a damaged one."""


class Parts:
    """The sealed parts of one evaluation; ``mark`` (a fingerprint) keeps those of other evaluations apart."""

    def __init__(self, folder: Path, mark: str, ledger: Ledger) -> None:
        # Another fingerprint means other settings, and their parts must never be mixed.
        self._folder = folder / PARTS / mark[:16]
        self._ledger = ledger
        self._mark = mark
        self._sealed = {
            str(record.data["part"]): str(record.data["sha256"])
            for record in ledger.records()
            if record.event == "part" and record.data.get("of") == mark
        }

    def get(self, name: str, make: Callable[[], Mapping[str, npt.NDArray[Any]]]) -> Arrays:
        """Return the part ``name``, made and sealed first unless that has been done."""
        held = self.held(name)
        return self.seal(name, dict(make())) if held is None else held

    def held(self, name: str) -> Arrays | None:
        """Return the part ``name``; None where it is not sealed yet."""
        path = self._folder / f"{name}.npz"
        # Hashed again: the file may be half written, or changed between two calls.
        if name in self._sealed and path.is_file() and sha256_of_file(path) == self._sealed[name]:
            return arrays_from(read_bounded(path, _MOST_BYTES), str(path), _MOST_BYTES)
        # One that is there without the ledger's word is made anew: the kill came between the two writes below.
        return None

    def seal(self, name: str, arrays: Arrays) -> Arrays:
        """Seal ``arrays`` as the part ``name``, from any thread, and return them."""
        path = self._folder / f"{name}.npz"
        # The file first and the ledger after: the other way round it would vouch for a part that does not exist.
        atomic_write_bytes(path, npz_from(arrays))
        self._sealed[name] = sha256_of_file(path)
        self._ledger.append("part", of=self._mark, part=name, sha256=self._sealed[name])
        return arrays


def npz_from(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return ``arrays`` as a compressed npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
