"""A board: the host's side of an agent. Every call ends, with an answer or with a BoardError."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import robustdeploy
from robustdeploy import errors
from robustdeploy.devices.channel import Channel
from robustdeploy.devices.link import Link, Pipe
from robustdeploy.errors import BoardError, RobustdeployError, UsageError, WireError
from robustdeploy.onboard.store import sha256_of
from robustdeploy.onboard.timing import Timings, timings_from_head
from robustdeploy.onboard.types import Bytes, Labels, Probe, Scores, Threat
from robustdeploy.onboard.wire import VERSION, Array, Message, read_message, write_message

_PIECE = 8 << 20
_START_S = 60.0
_LATENCY_MARGIN_S = 60.0

Facts = Mapping[str, Any]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Compiled:
    """An engine on the board."""

    engine: str
    """SHA-256 of its content; `Board.open_engine` takes it."""
    size: int
    """Bytes."""
    seconds: float
    """Time the toolchain took."""


@dataclass(frozen=True)
class Timed:
    """What timing on the board gave, with the sensors around it."""

    timings: Timings
    before: Facts
    after: Facts
    throttled: tuple[str, ...]
    """Why the clocks cannot be trusted; empty where nothing speaks against them."""
    same_scores: bool
    """Whether the engine scored the timed images the same before and after."""


@dataclass
class Board:
    """Talks to one agent over ``pipe``. ``deadline_s`` is the longest silence that is borne before a call gives up."""

    pipe: Pipe
    deadline_s: float = 60.0
    batch_bytes: int = 16 << 20
    clock: Callable[[], float] = time.monotonic
    facts: Facts = field(default_factory=dict, init=False)
    """What `hello` answered last."""
    queries_total: int = field(default=0, init=False)
    """How many images the agent says the engine has scored since it started."""
    _channel: Channel = field(init=False, repr=False)
    _broken: str = field(default="", init=False, repr=False)
    _names: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self._channel = Channel(self.pipe, self.clock)

    def hello(self) -> Facts:
        """Return what the board says of itself; BoardError where its agent is of another version."""
        facts = self._ask("hello", {}, deadline_s=max(self.deadline_s, _START_S)).head
        theirs = (facts.get("agent"), facts.get("protocol"))
        if theirs != (ours := (robustdeploy.__version__, VERSION)):
            raise BoardError(
                f"{self.pipe.where}: the agent is version {theirs[0]} with protocol {theirs[1]}, this host is "
                f"{ours[0]} with protocol {ours[1]}; build the bundle again with this version"
            )
        self.facts = facts
        return facts

    def probe(self, backend: str, options: Facts | None = None) -> Probe:
        """Ask whether the toolchain ``backend`` works on the board, and in which version."""
        head = self._ask("probe", {"backend": backend, "options": dict(options or {})}).head
        usable, details = _of(head, "usable", bool), _of(head, "details", dict)
        return Probe(usable, _of(head, "version", str), _of(head, "fix", str), details)

    def put(self, path: Path) -> str:
        """Send a file unless the board has it already, and return its hash."""
        sha256, total, offset = sha256_of(path), path.stat().st_size, 0
        self._names[sha256] = path.name
        if _of(self._ask("have", {"sha256": sha256}).head, "have", bool):
            return sha256
        with path.open("rb") as file:
            while True:
                piece = np.frombuffer(file.read(_PIECE), np.uint8)
                head = {"name": path.name, "sha256": sha256, "offset": offset, "total": total}
                offset = _of(self._ask("put", head, {"data": piece}).head, "held", int)
                if offset >= total or len(piece) == 0:
                    return sha256

    def compile(self, backend: str, onnx: str, options: Facts | None = None, deadline_s: float = 3600.0) -> Compiled:
        """Compile the ONNX file with hash ``onnx``; the toolchain says nothing meanwhile, hence the longer deadline."""
        request = {"backend": backend, "onnx": onnx, "options": dict(options or {})}
        head = self._ask("compile", request, deadline_s=deadline_s).head
        return Compiled(_of(head, "engine", str), _of(head, "bytes", int), float(_of(head, "seconds", (int, float))))

    def open_engine(self, backend: str, engine: str, options: Facts | None = None, deadline_s: float = 600.0) -> None:
        """Load the engine with hash ``engine``, in place of the one that was open."""
        self._ask("open", {"backend": backend, "engine": engine, "options": dict(options or {})}, deadline_s=deadline_s)

    def score(self, images: Bytes, batch: int | None = None) -> Scores:
        """Return one row of scores per 8-bit image; the board turns them into pixels as the host would.

        The engine is given ``batch`` images at a time, the rest at the end, and as many as suit it where that is None.
        However small the batch, the images travel together.
        """
        head, parts = {} if batch is None else {"batch": batch}, []
        for part in self._batches(images):
            scores = _array(self._ask("score", head, {"images": images[part]}), "scores", "float32")
            if scores.ndim != 2 or len(scores) != len(images[part]) or not np.isfinite(scores).all():
                raise BoardError(f"{self.pipe.where}: the board answered scores of shape {scores.shape} or not finite")
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
    ) -> tuple[Bytes, Labels]:
        """Attack the open engine on the board; return the images found and the queries spent on each (−1: unknown).

        ``progress`` hears the agent's running total of queries about once a second.
        """
        head = {"name": name, "options": dict(options), "threat": {"norm": threat.norm, "eps": threat.eps}, "key": key}
        found, spent = [], []
        for part in self._batches(images):
            arrays: dict[str, Array] = {"images": images[part]}
            arrays |= {"labels": labels[part].astype(np.int64), "ids": ids[part].astype(np.int64)}
            answer = self._ask("attack", head, arrays, progress=progress)
            found.append(_array(answer, "images", "uint8"))
            spent.append(_array(answer, "queries", "int64"))
            if found[-1].shape != images[part].shape or spent[-1].shape != labels[part].shape:
                raise BoardError(f"{self.pipe.where}: the attack {name} answered images of another shape than was sent")
        return np.concatenate(found), np.concatenate(spent)

    def time(self, plan: Facts, images: Bytes) -> Timed:
        """Time the open engine by ``plan`` (batch, warmup_s, min_s, max_s, min_samples) on ``images``, used in turn."""
        planned = float(plan.get("max_s", 60)) + float(plan.get("warmup_s", 0))
        longest = planned + max(self.deadline_s, _LATENCY_MARGIN_S)
        part = next(self._batches(images))
        answer = self._ask("time", {"plan": dict(plan)}, {"images": images[part]}, deadline_s=longest)
        head = answer.head
        timings = timings_from_head(_of(head, "timings", dict), _array(answer, "samples_ns", "int64"))
        before, after, same = _of(head, "before", dict), _of(head, "after", dict), _of(head, "same_scores", bool)
        return Timed(timings, before, after, tuple(str(reason) for reason in _of(head, "throttled", list)), same)

    def sensors(self) -> Facts:
        """Return the board's clocks, temperatures and throttle counters as they are now."""
        return self._ask("sensors", {}).head

    def close(self) -> None:
        """Let the agent end; nothing is said where it is gone already."""
        if not self._broken:
            with suppress(RobustdeployError):
                self._ask("close", {}, deadline_s=min(self.deadline_s, 5.0))
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
        op: str,
        head: Facts,
        arrays: Mapping[str, Array] | None = None,
        deadline_s: float | None = None,
        progress: Progress | None = None,
    ) -> Message:
        """Send one request and return its answer; after a failure of the pipe itself every later call fails too."""
        if self._broken:
            raise BoardError(f"{self.pipe.where}: {op} cannot be asked: {self._broken}")
        allowed = self.deadline_s if deadline_s is None else deadline_s
        try:
            self._channel.allow(allowed)
            write_message(self._channel, {"op": op, **head}, arrays)
            answer = self._answer(allowed, progress)
        except BoardError as error:
            self._broken = "the pipe to the agent failed before"
            raise self._explained(op, error) from None
        except BaseException:
            self._broken = "the call before was interrupted"
            raise
        if "error" in answer.head:
            raise _error_from(answer.head["error"], self.pipe.where, self._names)
        if type(total := answer.head.get("queries_total")) is int:
            self.queries_total = total
        return answer

    def _answer(self, allowed: float, progress: Progress | None) -> Message:
        """Wait for the answer; each sign of progress starts the deadline anew."""
        while True:
            self._channel.allow(allowed)
            message = read_message(self._channel)
            if message is None:
                raise BoardError(f"{self.pipe.where}: the agent is gone: {self.pipe.failure()}")
            if "progress" not in message.head:
                return message
            if progress is not None and type(queries := message.head["progress"]) is int:
                progress(queries)

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
    found = getattr(errors, kind, None) if isinstance(kind, str) else None
    known = isinstance(found, type) and issubclass(found, RobustdeployError) and found is not errors.Interrupted
    text = str(message)[:4000]
    for sha256, name in names.items():
        text = text.replace(sha256, name)
    made: RobustdeployError = (found if known and found is not None else BoardError)(f"{where}: {text}")
    return made


def _of(head: Facts, name: str, kind: Any) -> Any:
    if not isinstance(value := head.get(name), kind):
        raise BoardError(f"the board's answer lacks a sound {name!r}; use equal versions of robustdeploy")
    return value


def _array(answer: Message, name: str, dtype: str) -> Array:
    array = answer.arrays.get(name)
    if array is None or array.dtype != dtype:
        raise BoardError(f"the board's answer lacks the {dtype} array {name!r}; use equal versions of robustdeploy")
    return array
