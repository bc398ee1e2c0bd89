"""A conversation with one agent: numbered requests, each ended by an answer of its form or by a BoardError."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from robustdeploy.devices import answers
from robustdeploy.devices.answers import Answer, answer_of, impossible, no_other
from robustdeploy.devices.channel import Channel
from robustdeploy.devices.link import Pipe
from robustdeploy.devices.patience import FIRST_QUERY_S, Patience, pace
from robustdeploy.errors import (
    ArtifactError,
    BoardError,
    RobustdeployError,
    StorageError,
    ToolchainError,
    UsageError,
    WireError,
)
from robustdeploy.onboard.wire import VERSION, Array, Message, read_message, write_message

# The name comes from a board: looked up in the module, it could be any class that happens to be there.
_ERRORS = (UsageError, ArtifactError, ToolchainError, BoardError, WireError, StorageError)
"""What may go wrong on a board; everything else it may name is a BoardError."""

Facts = Mapping[str, Any]
Progress = Callable[[int], None]
A = TypeVar("A", bound=Answer)


@dataclass(frozen=True)
class Said(Generic[A]):
    """One answer: its head, its arrays, and how long it took on the host's clock."""

    head: A
    arrays: dict[str, Array]
    took_s: float


@dataclass
class Conversation:
    """Asks one agent over ``pipe``. ``deadline_s`` is the longest silence that is borne before a call gives up.

    Nothing an agent says is believed: what cannot be true is a BoardError that names the field, and ends it all.
    """

    pipe: Pipe
    deadline_s: float = 60.0
    clock: Callable[[], float] = time.monotonic
    queries_total: int = field(default=0, init=False)
    """How many images the engine has scored since the agent started: what was asked for, and the agent agrees."""
    names: dict[str, str] = field(default_factory=dict, init=False)
    """What files are called here, by their hashes, for the agent's messages."""
    _channel: Channel = field(init=False, repr=False)
    _broken: str = field(default="", init=False, repr=False)
    _cut: bool = field(default=False, init=False, repr=False)
    _query_s: float = field(default=0.0, init=False, repr=False)
    _asked: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        self._channel = Channel(self.pipe, self.clock)

    @property
    def is_cut(self) -> bool:
        """Whether the pipe failed, as it does where the link or the agent is gone; no answer was impossible."""
        return self._cut

    @property
    def is_broken(self) -> bool:
        """Whether nothing more can be asked."""
        return bool(self._broken)

    def close(self) -> None:
        """Let the agent end; nothing is said where it is gone already."""
        if not self._broken:
            with suppress(RobustdeployError):
                self.call("close", {}, deadline_s=min(self.deadline_s, 5.0))
            self._broken = "the board was closed"

    def ask(
        self,
        form: type[A],
        op: str,
        head: Facts,
        arrays: Mapping[str, Array] | None = None,
        wanted: Sequence[str] = (),
        deadline_s: float | None = None,
        queries: int = 0,
        progress: Progress | None = None,
    ) -> Said[A]:
        """Ask and hold the answer against its ``form`` and the arrays ``wanted``."""
        began = self.clock()
        answer = self.call(op, head, arrays, deadline_s, queries, progress)
        took_s = self.clock() - began
        with self.doubting():
            no_other(answer.arrays, wanted, op)
            return Said(answer_of(form, answer.head, op), answer.arrays, took_s)

    def call(
        self,
        op: str,
        head: Facts,
        arrays: Mapping[str, Array] | None = None,
        deadline_s: float | None = None,
        queries: int = 0,
        progress: Progress | None = None,
    ) -> Message:
        """Send one request and return its answer; after a failure of the pipe itself every later call fails too."""
        if self._broken:
            raise BoardError(f"{self.pipe.where}: {op} cannot be asked: {self._broken}")
        # Numbers tell a late answer to an abandoned request from the answer that is waited for.
        self._asked += 1
        silence = self.deadline_s if deadline_s is None else deadline_s
        patience = Patience(op, self.clock(), silence, queries, self._query_s or FIRST_QUERY_S)
        try:
            # Sending has a deadline too: a board that reads no more would block the host once the pipe is full.
            self._channel.allow(silence)
            write_message(self._channel, {"op": op, "id": self._asked, **head}, arrays)
            answer = self._answer(patience, progress)
        except BoardError as error:
            if self._broken:  # what the agent said was impossible; the pipe is sound
                raise
            self._broken, self._cut = "the pipe to the agent failed before", True
            raise self._explained(op, error) from None
        # An interrupted call leaves half a message in the pipe, and the next one would be read from its middle.
        except BaseException:
            self._broken = "the call before was interrupted"
            raise
        if "error" in answer.head:
            raise _error_from(answer.head["error"], self.pipe.where, self.names)
        return answer

    def _answer(self, patience: Patience, progress: Progress | None) -> Message:
        """Wait for the answer to the request that was just sent."""
        while True:
            self._channel.allow(*patience.left(self.clock()))
            message = read_message(self._channel)
            if message is None:
                raise BoardError(f"{self.pipe.where}: the agent is gone: {self.pipe.failure()}")
            number = message.head.pop("id", None)
            # An agent of another version may number nothing; `hello` says that better.
            ours = patience.op != "hello" or message.head.get("protocol") == VERSION
            if ours and number != self._asked and "error" not in message.head:
                found = f"must be {self._asked}, the request's, not {repr(number)[:60]}"
                raise self.impossible(patience.op, "id", found)
            if "progress" not in message.head:
                return message
            with self.doubting():
                patience.heard(message.head["progress"], self.queries_total)
            if progress is not None:
                progress(self.queries_total + patience.done)

    def paced(self, took_s: float, queries: int) -> None:
        """Take note that ``queries`` images took ``took_s``: later ones may take a multiple of that."""
        # The slowest pace so far: a board that throttles later is not given up for it.
        self._query_s = max(self._query_s, pace(took_s, queries))

    def count(self, op: str, head: answers.Queried | answers.Window, least: int, most: int) -> None:
        """Hold what the agent says it has scored against what this request can have cost."""
        rise = head.queries_total - self.queries_total
        told = head.queries if isinstance(head, answers.Queried) else rise
        if not least <= told <= most:
            allowed = f"{least:,}" if least == most else f"{least:,} to {most:,}"
            raise self.impossible(op, "queries", f"must be {allowed}, not {told:,}")
        # Two counts that must agree: an engine asked behind the host's back shows as a higher total.
        if rise != told:
            expected = self.queries_total + told
            raise self.impossible(op, "queries_total", f"must be {expected:,}, not {head.queries_total:,}")
        self.queries_total = head.queries_total

    def impossible(self, op: str, field: str, why: str) -> BoardError:
        """Say which field of an answer cannot be true; the agent is asked nothing more."""
        self._broken = "its answer before was impossible"
        return BoardError(f"{self.pipe.where}: {impossible(op, field, why)}")

    @contextmanager
    def doubting(self) -> Iterator[None]:
        """Say of an answer that cannot be whose it is, and ask that board nothing more."""
        try:
            yield
        except BoardError as error:
            self._broken = "its answer before was impossible"
            raise BoardError(f"{self.pipe.where}: {error}") from None

    def _explained(self, op: str, error: BoardError) -> BoardError:
        if isinstance(error, WireError):
            return WireError(f"{self.pipe.where}: {op}: {error}; the agent: {self.pipe.failure()}")
        return BoardError(f"{error} (asked for: {op})")


def _error_from(said: Any, where: str, names: Mapping[str, str]) -> RobustdeployError:
    """Turn the agent's error into the exception of the same name; hashes of files sent are told by their names."""
    kind, message = (said.get("kind"), said.get("message")) if isinstance(said, dict) else (None, said)
    found = next((each for each in _ERRORS if each.__name__ == kind), BoardError)
    text = str(message)[:4000]
    # The board knows files by their hashes alone, which tell a user nothing.
    for sha256, name in names.items():
        text = text.replace(sha256, name)
    return found(f"{where}: {text}")
