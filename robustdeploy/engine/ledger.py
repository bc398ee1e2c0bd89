"""The ledger of a run: one hash-chained JSON line per event, each forced to the disk before the next step.

A line's ``hash`` is the SHA-256 of its other fields as canonical JSON, and ``previous`` is the hash of the line
before. A kill in the middle of a write leaves a last line without its newline; the next append cuts it off.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from robustdeploy.core.files import canonical_json, open_own, sha256_of_text, storage_errors, sync_file
from robustdeploy.core.model import Noun
from robustdeploy.core.reading import parse_json, read_bounded
from robustdeploy.core.subject import PRUNED
from robustdeploy.errors import ArtifactError

LEDGER = "ledger.jsonl"
# There is no line before the first one; a fixed text stands in, so that every line is checked in the same way.
_START = "0" * 64


class Record(Noun):
    """One event: what happened, when, and the hash of the event before."""

    n: int
    """Position in the ledger, from 0."""
    time: str
    """UTC, ISO 8601."""
    event: str
    data: dict[str, Any]
    previous: str
    hash: str

    @property
    def is_whole(self) -> bool:
        """Whether the hash is that of the content; content that could not have been written has none."""
        try:
            return self.computed_hash() == self.hash
        except (ValueError, RecursionError):
            return False

    def computed_hash(self) -> str:
        """Return the hash that this record's content has."""
        return sha256_of_text(canonical_json(self.model_dump(exclude={"hash"})))


def own_net(records: Sequence[Record]) -> str:
    """Return which net of a run is its own, ``pruned``, ``dense`` or ``imported``: another may stand beside it."""
    named = [str(record.data.get("net", PRUNED)) for record in records if record.event == "recipe"]
    return named[-1] if named else PRUNED


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Ledger:
    """An append-only file; nothing in it is ever changed but a last line that was torn by a kill."""

    path: Path
    now: Callable[[], datetime] = utc_now

    def append(self, event: str, /, **data: Any) -> Record:
        """Add one event and force it to the disk; a broken chain is an ArtifactError, a full disk a StorageError."""
        with storage_errors(self.path):
            new = not self.path.exists()
            handle = open_own(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            try:
                # Two processes may enter something at once; the kernel frees this when the handle closes.
                fcntl.flock(handle, fcntl.LOCK_EX)
                self._cut_torn_line()
                record = self._next(event, data)
                # Linux allows file names that are no UTF-8. Python holds them as lone surrogates, which strict encoding
                # refuses.
                _write_all(handle, (canonical_json(record.model_dump()) + "\n").encode(errors="surrogatepass"))
                # Whatever follows this event relies on it. Without fsync a power cut could keep the later file and lose
                # this line.
                os.fsync(handle)
            finally:
                os.close(handle)
            # fsync of a file does not cover its name, which is an entry of the folder.
            if new:
                sync_file(self.path.parent)
        return record

    def _next(self, event: str, data: dict[str, Any]) -> Record:
        records = self.records()
        # The chain is read anew for each event, as another process may have appended since. That also refuses to build
        # on a broken chain.
        previous = records[-1].hash if records else _START
        time = self.now().isoformat(timespec="milliseconds")
        record = Record(n=len(records), time=time, event=event, data=data, previous=previous, hash="")
        return record.model_copy(update={"hash": record.computed_hash()})

    def records(self) -> list[Record]:
        """Return all events; a line that was edited, removed or added is an ArtifactError with its number."""
        records: list[Record] = []
        previous = _START
        for number, line in enumerate(self._complete_lines(), start=1):
            record = self._record(number, line)
            if record.n != len(records) or record.previous != previous:
                raise self._broken(number, "does not follow from the line before")
            if not record.is_whole:
                raise self._broken(number, "was changed after it was written")
            previous = record.hash
            records.append(record)
        return records

    def verify(self) -> None:
        """Check the whole chain; a break is an ArtifactError with the line's number."""
        self.records()

    def _complete_lines(self) -> list[bytes]:
        if not self.path.exists():
            return []
        if not self.path.is_file():
            raise ArtifactError(f"{self.path} is no file, so the ledger of this run cannot be read; put it back")
        try:
            # What stands behind the last newline is nothing, or a torn line, whose event was never relied on.
            return read_bounded(self.path, growing=True).split(b"\n")[:-1]
        except ArtifactError as error:
            raise ArtifactError(f"{error}; make it readable") from error

    def _record(self, number: int, line: bytes) -> Record:
        try:
            return Record.model_validate(parse_json(line, "the line"))
        except (ArtifactError, ValidationError) as error:
            raise self._broken(number, "is not a ledger's line") from error

    def _broken(self, number: int, what: str) -> ArtifactError:
        return ArtifactError(
            f"{self.path}: line {number} {what}; the evidence of this run is broken from there on, so start a new run"
        )

    def _cut_torn_line(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            # Appended to the torn line, the new event would make one unreadable line with it and break the chain.
            os.truncate(self.path, whole)
            sync_file(self.path)


def _write_all(handle: int, content: bytes) -> None:
    """Write every byte: near a full disk one call may write a part, and the next one says why."""
    while content:
        content = content[os.write(handle, content) :]
