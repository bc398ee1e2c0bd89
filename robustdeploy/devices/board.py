"""A board: the host's side of an agent. Every call ends, with an answer or with a BoardError."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

import robustdeploy
from robustdeploy.devices import answers
from robustdeploy.devices.answers import Answer, answer_of, array_of, impossible, no_other
from robustdeploy.devices.channel import Channel
from robustdeploy.devices.link import Link, Pipe
from robustdeploy.devices.patience import FIRST_QUERY_S, Patience, pace
from robustdeploy.devices.window import Window, window_from
from robustdeploy.errors import (
    ArtifactError,
    BoardError,
    RobustdeployError,
    StorageError,
    ToolchainError,
    UsageError,
    WireError,
)
from robustdeploy.onboard.store import sha256_of
from robustdeploy.onboard.timing import CHECKED, Plan
from robustdeploy.onboard.types import Bytes, Labels, Probe, Scores, Threat
from robustdeploy.onboard.wire import VERSION, Array, Message, read_message, write_message

_PIECE = 8 << 20
_START_S = 60.0
_LATENCY_MARGIN_S = 60.0
_MOST_QUERIES = 1_000_000
"""Queries per image of an attack that states no budget, at most."""
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
class Board:
    """Talks to one agent over ``pipe``. ``deadline_s`` is the longest silence that is borne before a call gives up.

    Nothing an agent says is believed: what cannot be true is a BoardError that names the field.
    """

    pipe: Pipe
    deadline_s: float = 60.0
    batch_bytes: int = 16 << 20
    clock: Callable[[], float] = time.monotonic
    facts: Facts = field(default_factory=dict, init=False)
    """What `hello` answered last."""
    queries_total: int = field(default=0, init=False)
    """How many images the engine has scored since the agent started: what was asked for, and the agent agrees."""
    _channel: Channel = field(init=False, repr=False)
    _broken: str = field(default="", init=False, repr=False)
    _names: dict[str, str] = field(default_factory=dict, init=False, repr=False)
    _classes: int | None = field(default=None, init=False, repr=False)
    _query_s: float = field(default=0.0, init=False, repr=False)
    _asked: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        self._channel = Channel(self.pipe, self.clock)

    def hello(self) -> Facts:
        """Return what the board says of itself; BoardError where its agent is of another version."""
        answer = self._call("hello", {}, deadline_s=max(self.deadline_s, _START_S))
        head = answer.head
        theirs = (head.get("agent"), head.get("protocol"))
        if theirs != (ours := (robustdeploy.__version__, VERSION)):
            raise BoardError(
                f"{self.pipe.where}: the agent is version {str(theirs[0])[:60]} with protocol {str(theirs[1])[:60]}, "
                f"this host is {ours[0]} with protocol {ours[1]}; build the bundle again with this version"
            )
        with self._doubting():
            no_other(answer.arrays, (), "hello")
            self.facts = answer_of(answers.Hello, head, "hello").model_dump()
        return self.facts

    def probe(self, backend: str, options: Facts | None = None) -> Probe:
        """Ask whether the toolchain ``backend`` works on the board, and in which version."""
        head = self._ask(answers.Probed, "probe", {"backend": backend, "options": dict(options or {})}).head
        return Probe(head.usable, head.version, head.fix, head.details)

    def put(self, path: Path) -> str:
        """Send a file unless the board has it already, and return its hash."""
        sha256, total, offset = sha256_of(path), path.stat().st_size, 0
        self._names[sha256] = path.name
        if self._ask(answers.Have, "have", {"sha256": sha256}).head.have:
            return sha256
        with path.open("rb") as file:
            while True:
                piece = np.frombuffer(file.read(_PIECE), np.uint8)
                head = {"name": path.name, "sha256": sha256, "offset": offset, "total": total}
                held = self._ask(answers.Held, "put", head, {"data": piece}).head.held
                offset += len(piece)
                if held != offset:
                    raise self._impossible("put", "held", f"must be {offset:,} bytes, not {held:,}")
                if offset >= total or len(piece) == 0:
                    return sha256

    def compile(
        self, backend: str, onnx: str, options: Facts | None = None, deadline_s: float = 3600.0
    ) -> answers.Compiled:
        """Compile the ONNX file with hash ``onnx``; the toolchain says nothing meanwhile, hence the longer deadline."""
        request = {"backend": backend, "onnx": onnx, "options": dict(options or {})}
        said = self._ask(answers.Compiled, "compile", request, deadline_s=deadline_s)
        if said.head.seconds > said.took_s * 1.01:
            found = f"is {said.head.seconds:.4g} s, but the whole call took {said.took_s:.4g} s here"
            raise self._impossible("compile", "seconds", found)
        return said.head

    def open_engine(
        self,
        backend: str,
        engine: str,
        options: Facts | None = None,
        deadline_s: float = 600.0,
        classes: int | None = None,
    ) -> None:
        """Load the engine with hash ``engine`` anew, in place of the one that was open.

        ``classes`` is how many scores it must give per image; None accepts what it gives first.
        """
        request = {"backend": backend, "engine": engine, "options": dict(options or {})}
        opened = self._ask(answers.Open, "open", request, deadline_s=deadline_s).head.open
        if opened != engine:
            raise self._impossible("open", "open", f"is the engine {opened[:16]}…, and {engine[:16]}… was to be opened")
        self._classes = classes

    def score(self, images: Bytes, batch: int | None = None) -> Scores:
        """Return one row of scores per 8-bit image; the board turns them into pixels as the host would.

        The engine is given ``batch`` images at a time, the rest at the end, and as many as suit it where that is None.
        However small the batch, the images travel together.
        """
        head, parts = {} if batch is None else {"batch": batch}, []
        for part in self._batches(images):
            count = len(images[part])
            said = self._ask(answers.Queried, "score", head, {"images": images[part]}, ("scores",), queries=count)
            with self._doubting():
                scores = array_of(said.arrays, "scores", "float32", (count, self._classes), "score")
            self._classes = scores.shape[1]
            self._count("score", said.head, count, count)
            self._query_s = max(self._query_s, pace(said.took_s, count))
            parts.append(scores)
        return np.concatenate(parts)

    def attack(
        self,
        name: str,
        options: Facts,
        threat: Threat,
        key: int,
        images: Bytes,
        labels: Labels,
        ids: Labels,
        progress: Progress | None = None,
        budget: int | None = None,
    ) -> tuple[Bytes, Labels]:
        """Attack the open engine on the board; return the images found and the queries spent on each (−1: unknown).

        ``budget`` is the most queries that the attack may spend on an image. ``progress`` hears the agent's running
        total of queries about once a second.
        """
        head = {"name": name, "options": dict(options), "threat": {"norm": threat.norm, "eps": threat.eps}, "key": key}
        most = _MOST_QUERIES if budget is None else budget
        found, spent = [], []
        for part in self._batches(images):
            sent = images[part]
            arrays: dict[str, Array] = {"images": sent}
            arrays |= {"labels": labels[part].astype(np.int64), "ids": ids[part].astype(np.int64)}
            wanted, all_queries = ("images", "queries"), len(sent) * most
            said = self._ask(answers.Queried, "attack", head, arrays, wanted, queries=all_queries, progress=progress)
            with self._doubting():
                found.append(array_of(said.arrays, "images", "uint8", sent.shape, "attack"))
                spent.append(array_of(said.arrays, "queries", "int64", (len(sent),), "attack"))
                _check_queries(spent[-1], most, (found[-1] != sent).reshape(len(sent), -1).any(1))
            known = bool((spent[-1] >= 0).all())
            least = int(spent[-1].sum()) if known else 0
            self._count("attack", said.head, least, least if known else all_queries)
        return np.concatenate(found), np.concatenate(spent)

    def time(self, plan: Facts, images: Bytes) -> Window:
        """Time the open engine in one window by ``plan``, see `Plan`, on ``images``, used in turn."""
        asked = _plan_from(plan)
        longest = asked.max_s + asked.warmup_s + max(self.deadline_s, _LATENCY_MARGIN_S)
        part = next(self._batches(images))
        wanted = ("samples_ns", "starts_ns", "empty_ns", "scores_before", "scores_after")
        sent = {"images": images[part]}
        said = self._ask(answers.Window, "time", {"plan": asdict(asked)}, sent, wanted, deadline_s=longest)
        checked = min(CHECKED, len(images[part]) // asked.batch) * asked.batch
        with self._doubting():
            window = window_from(said.head, said.arrays, asked, said.took_s, (checked, self._classes))
        queries = 2 * checked + (window.warmup_runs + len(window.samples_ns)) * asked.batch
        self._count("time", said.head, queries, queries)
        return window

    def sensors(self) -> Facts:
        """Return the board's clocks, temperatures and throttle counters as they are now."""
        return self._ask(answers.Sensors, "sensors", {}).head.model_dump()

    def close(self) -> None:
        """Let the agent end; nothing is said where it is gone already."""
        if not self._broken:
            with suppress(RobustdeployError):
                self._call("close", {}, deadline_s=min(self.deadline_s, 5.0))
            self._broken = "the board was closed"

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _batches(self, images: Bytes) -> Iterator[slice]:
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) == 0:
            raise UsageError(f"a board takes uint8 images N×C×H×W; {images.dtype} of shape {images.shape} came")
        step = max(1, self.batch_bytes // max(1, images[0].nbytes))
        for start in range(0, len(images), step):
            yield slice(start, start + step)

    def _ask(
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
        answer = self._call(op, head, arrays, deadline_s, queries, progress)
        took_s = self.clock() - began
        with self._doubting():
            no_other(answer.arrays, wanted, op)
            return Said(answer_of(form, answer.head, op), answer.arrays, took_s)

    def _call(
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
        self._asked += 1
        silence = self.deadline_s if deadline_s is None else deadline_s
        patience = Patience(op, self.clock(), silence, queries, self._query_s or FIRST_QUERY_S)
        try:
            self._channel.allow(silence)
            write_message(self._channel, {"op": op, "id": self._asked, **head}, arrays)
            answer = self._answer(patience, progress)
        except BoardError as error:
            if self._broken:  # what the agent said was impossible; the pipe is sound
                raise
            self._broken = "the pipe to the agent failed before"
            raise self._explained(op, error) from None
        except BaseException:
            self._broken = "the call before was interrupted"
            raise
        if "error" in answer.head:
            raise _error_from(answer.head["error"], self.pipe.where, self._names)
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
                raise self._impossible(patience.op, "id", found)
            if "progress" not in message.head:
                return message
            with self._doubting():
                patience.heard(message.head["progress"], self.queries_total)
            if progress is not None:
                progress(self.queries_total + patience.done)

    def _count(self, op: str, head: answers.Queried | answers.Window, least: int, most: int) -> None:
        """Hold what the agent says it has scored against what this request can have cost."""
        rise = head.queries_total - self.queries_total
        told = head.queries if isinstance(head, answers.Queried) else rise
        if not least <= told <= most:
            allowed = f"{least:,}" if least == most else f"{least:,} to {most:,}"
            raise self._impossible(op, "queries", f"must be {allowed}, not {told:,}")
        if rise != told:
            expected = self.queries_total + told
            raise self._impossible(op, "queries_total", f"must be {expected:,}, not {head.queries_total:,}")
        self.queries_total = head.queries_total

    def _impossible(self, op: str, field: str, why: str) -> BoardError:
        self._broken = "its answer before was impossible"
        return BoardError(f"{self.pipe.where}: {impossible(op, field, why)}")

    @contextmanager
    def _doubting(self) -> Iterator[None]:
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


@contextmanager
def board_from(link: Link, agent: Path, deadline_s: float = 60.0) -> Iterator[Board]:
    """Start ``agent`` over ``link`` and give a board that has said hello in the same version."""
    with link.open(agent) as pipe, Board(pipe, deadline_s) as board:
        board.hello()
        yield board


def _error_from(said: Any, where: str, names: Mapping[str, str]) -> RobustdeployError:
    """Turn the agent's error into the exception of the same name; hashes of files sent are told by their names."""
    kind, message = (said.get("kind"), said.get("message")) if isinstance(said, dict) else (None, said)
    found = next((each for each in _ERRORS if each.__name__ == kind), BoardError)
    text = str(message)[:4000]
    for sha256, name in names.items():
        text = text.replace(sha256, name)
    return found(f"{where}: {text}")


def _check_queries(spent: Labels, most: int, changed: npt.NDArray[np.bool_]) -> None:
    """Raise BoardError for queries per image that an attack of ``most`` per image cannot have spent."""
    if (spent == -1).all():
        return
    if (spent < 0).any():
        raise impossible("attack", "queries", f"must be 0 or more for every image, not {int(spent.min()):,}")
    if (highest := int(spent.max())) > most:
        raise impossible("attack", "queries", f"must be at most {most:,} per image, not {highest:,}")
    if free := int((changed & (spent == 0)).sum()):
        raise impossible("attack", "queries", f"is 0 for {free:,} images that were changed")


def _plan_from(plan: Facts) -> Plan:
    try:
        return Plan(**plan)
    except TypeError as error:
        raise UsageError(f"the latency plan is refused: {error}") from None
