"""Talk: where work says what it is doing, and silence, where nobody listens."""

from __future__ import annotations

from typing import Protocol


class Talk(Protocol):
    """Where a pipeline says what it is doing."""

    def say(self, line: str) -> None:
        """Say one line."""
        ...

    def progress(self, what: str, done: int, total: int, **numbers: float) -> None:
        """Say how far ``what`` is, with its latest numbers."""
        ...


class Silence:
    """Says nothing; the default of the Python API."""

    def say(self, line: str) -> None:
        """Say nothing."""

    def progress(self, what: str, done: int, total: int, **numbers: float) -> None:
        """Say nothing."""


SILENCE = Silence()
