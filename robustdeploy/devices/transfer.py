"""Files to a board and from it, piece by piece, each known by the hash of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from robustdeploy.core.files import atomic_path, sha256_of_file, storage_errors
from robustdeploy.devices import answers
from robustdeploy.devices.answers import array_of
from robustdeploy.devices.conversation import Conversation
from robustdeploy.errors import ArtifactError
from robustdeploy.onboard.engine import EngineFile, Files, checked_files
from robustdeploy.onboard.store import PIECE_BYTES

Moved = Callable[[int], None]
"""Hears how many bytes have been moved since the call began; what was there already counts as moved."""


def silent(moved: int) -> None:
    """Hear nothing."""


def put(board: Conversation, path: Path, moved: Moved = silent) -> str:
    """Send a file unless the board has it already, and return its hash."""
    sha256, total, offset = sha256_of_file(path), path.stat().st_size, 0
    board.names[sha256] = path.name
    # An engine has many megabytes and a link may be slow; the same content need never travel twice.
    if board.ask(answers.Have, "have", {"sha256": sha256}).head.have:
        moved(total)
        return sha256
    with path.open("rb") as file:
        while True:
            piece = np.frombuffer(file.read(PIECE_BYTES), np.uint8)
            head = {"name": path.name, "sha256": sha256, "offset": offset, "total": total}
            held = board.ask(answers.Held, "put", head, {"data": piece}).head.held
            offset += len(piece)
            # A board that lost a piece would only be found out by the hash at the end, after everything was sent.
            if held != offset:
                raise board.impossible("put", "held", f"must be {offset:,} bytes, not {held:,}")
            moved(offset)
            if offset >= total or len(piece) == 0:
                return sha256


def send(board: Conversation, folder: Path, files: Files, moved: Moved = silent) -> None:
    """Send the engine that lies in ``folder``, as far as the board does not have it.

    A file that is not what ``files`` says is an ArtifactError, before anything of it is sent.
    """
    before = 0
    for file in checked_files(files):
        path = folder / file.name
        # The run's folder may have been changed since the engine was built, and the board must not run that.
        found = sha256_of_file(path) if path.is_file() else "none"
        if found != file.sha256:
            told = "is missing" if found == "none" else f"has the hash {found[:16]}…, not {file.sha256[:16]}…"
            raise ArtifactError(f"the engine's file {path} {told}; build the engine again")
        put(board, path, _beyond(before, moved))
        before += file.bytes


def fetch(board: Conversation, files: Files, folder: Path, moved: Moved = silent) -> None:
    """Write the files of an engine on the board into ``folder``, each in one step once its hash is right."""
    before = 0
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for file in checked_files(files):
        path = folder / file.name
        # A link with the right content now may lead to other content later.
        if not (path.is_file() and not path.is_symlink() and sha256_of_file(path) == file.sha256):
            _fetch(board, file, path, _beyond(before, moved))
        before += file.bytes
        moved(before)


def _fetch(board: Conversation, file: EngineFile, path: Path, moved: Moved) -> None:
    digest, offset = hashlib.sha256(), 0
    # Its hash is only known at the end; until then it must not lie where an engine's file is looked for.
    with atomic_path(path) as beside, beside.open("wb") as stream:
        while offset < file.bytes:
            said = board.ask(answers.Piece, "get", {"sha256": file.sha256, "offset": offset}, wanted=("data",))
            if said.head.total != file.bytes:
                told = f"must be {file.bytes:,} bytes for {file.name}, not {said.head.total:,}"
                raise board.impossible("get", "total", told)
            with board.doubting():
                data = array_of(said.arrays, "data", "uint8", (None,), "get").tobytes()
            most = min(PIECE_BYTES, file.bytes - offset)
            # A board that sends empty pieces would keep this loop going for ever.
            if not 1 <= len(data) <= most:
                told = f"must be a piece of 1 to {most:,} bytes of {file.name}, not of {len(data):,}"
                raise board.impossible("get", "data", told)
            digest.update(data)
            stream.write(data)
            offset += len(data)
            moved(offset)
        if (found := digest.hexdigest()) != file.sha256:
            told = f"of {file.name} came with the hash {found[:16]}…, not {file.sha256[:16]}…"
            raise board.impossible("get", "data", told)


def _beyond(before: int, moved: Moved) -> Moved:
    return lambda done: moved(before + done)
