"""The folder of an emulated board: what lies where, and whether it is a whole board."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustdeploy.core.files import atomic_write_json, expanded, storage_errors
from robustdeploy.errors import StorageError, UsageError

DEFAULT = "~/.local/share/robustdeploy/aarch64-emulated"
"""Where the target ``aarch64-emulated`` looks for its board."""
HOST = "aarch64-emulated"
"""What the board is called in its own SSH configuration."""
_SCHEMA = 1
# Shells, OpenSSH and its server read these as more than themselves, each in its own way.
_REFUSED = frozenset("\"'\\%$`#*?\n\r\t")


@dataclass(frozen=True)
class Folder:
    """The places in one board's folder."""

    path: Path

    @property
    def root(self) -> Path:
        """The arm64 files, as they would lie on the board's disk."""
        return self.path / "root"

    @property
    def python(self) -> Path:
        """The command that runs the board's interpreter."""
        return self.path / "bin" / "python3"

    @property
    def store(self) -> Path:
        """Where the agent and its engines lie, as on any board."""
        return self.path / "store"

    @property
    def ssh(self) -> Path:
        """Keys, known hosts and configuration of client and server, and the server's log."""
        return self.path / "ssh"

    @property
    def config(self) -> Path:
        """The client's SSH configuration."""
        return self.ssh / "config"

    @property
    def target(self) -> Path:
        """The target file that leads to this board."""
        return self.path / "target.yaml"

    @property
    def facts(self) -> dict[str, Any] | None:
        """What the board was made of; None where it is not whole."""
        try:
            found = json.loads((self.path / "board.json").read_text("utf-8"))
        except (OSError, ValueError):
            return None
        whole = isinstance(found, dict) and found.get("schema") == _SCHEMA and found.get("folder") == str(self.path)
        return found if whole and self.python.is_file() and self.root.is_dir() else None

    @property
    def begun(self) -> bool:
        """Whether a board was made here, or was begun."""
        return (self.path / "lock").is_file()

    def seal(self, facts: dict[str, Any]) -> None:
        """Say that the board is whole; the last thing that is written."""
        atomic_write_json(self.path / "board.json", {**facts, "schema": _SCHEMA, "folder": str(self.path)})

    def unseal(self) -> None:
        """Say that the board is not whole any more; the first thing before it is changed."""
        (self.path / "board.json").unlink(missing_ok=True)

    def taken(self) -> int:
        """Take the folder for this process until the handle is closed; StorageError where another one has it."""
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise StorageError(f"another command works in {self.path}; wait for it, then repeat") from None
        return handle


def folder_at(path: Path) -> Folder:
    """Return the folder of a board; UsageError where a server could not be told of a path like this."""
    whole = Path(os.path.abspath(expanded(path)))  # noqa: PTH100 - a link stays the name that the user gave
    if strange := sorted(set(str(whole)) & _REFUSED) or [c for c in str(whole) if not c.isprintable()]:
        raise UsageError(f"{path}: the folder of a board cannot have {strange[0]!r} in its path; give another folder")
    if whole.exists() and not whole.is_dir():
        raise UsageError(f"{path} is a file; give a folder for the board")
    return Folder(whole)


def whole_board(path: Path) -> tuple[Folder, dict[str, Any]]:
    """Return the folder of a whole board and what it is made of; UsageError where there is none."""
    folder = folder_at(path)
    if (facts := folder.facts) is None:
        half = folder.begun
        found = "holds a board that was not finished, or was moved here" if half else "is no emulated board"
        raise UsageError(f"{path} {found}; `robustdeploy board create {path}` makes one")
    return folder, facts
