"""A board: the host's side of an agent. Every call ends, with an answer or with a BoardError."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from robustdeploy.core.release import RELEASE
from robustdeploy.devices import answers, transfer
from robustdeploy.devices.answers import answer_of, array_of, files_of, impossible, no_other
from robustdeploy.devices.architecture import architecture_of
from robustdeploy.devices.attacked import Attacked, check_queries, check_times
from robustdeploy.devices.connection import LOSSES, AnotherBoard, Connection, Say
from robustdeploy.devices.conversation import Conversation, Facts, Progress, Said
from robustdeploy.devices.link import Link, Pipe
from robustdeploy.devices.run import Run, run_from
from robustdeploy.devices.transfer import Moved, silent
from robustdeploy.devices.window import WINDOW, Window, window_from
from robustdeploy.errors import BoardError, BoardLostError, UsageError
from robustdeploy.onboard.engine import Files, engine_id, size_of
from robustdeploy.onboard.queries import MARKS
from robustdeploy.onboard.timing import CHECKED, MOST_WARM_UP, SPLITS, Plan
from robustdeploy.onboard.types import Bytes, Labels, Probe, Scores, Threat
from robustdeploy.onboard.wire import VERSION, Array

# The first answer waits for numpy to load, which takes seconds on a small board with a cold SD card.
_START_S = 60.0
_LATENCY_MARGIN_S = 60.0
_LOAD_S = 600.0
"""And for a fresh process that loads its toolchain and the engine, as `open_engine` allows."""
_MOST_QUERIES = MARKS[-1]
"""Queries per image of an attack that states no budget, at most."""
SAME = ("machine", "cpu_model", "board_model", "python", "numpy")
"""What a board says of itself that does not change where it is the same one, restarted or not."""
T = TypeVar("T")


@dataclass(frozen=True)
class Compiled:
    """An engine that lies on the board, and how long its toolchain took."""

    files: Files
    seconds: float

    @property
    def id(self) -> str:
        """The engine's one name, by the names and hashes of its files."""
        return engine_id(self.files)

    @property
    def bytes(self) -> int:
        """Size of all its files together."""
        return size_of(self.files)


@dataclass(eq=False)
class Board:
    """Talks to one agent over ``pipe``. ``deadline_s`` is the longest silence that is borne before a call gives up.

    Nothing an agent says is believed: what cannot be true is a BoardError that names the field.
    """

    pipe: Pipe
    deadline_s: float = 60.0
    # A message is held in memory on both ends, and a board may have little of it.
    batch_bytes: int = 16 << 20
    clock: Callable[[], float] = time.monotonic
    connection: Connection | None = None
    """Makes a pipe anew where this one is lost; nothing does where it is None."""
    facts: Facts = field(default_factory=dict, init=False)
    """What `hello` answered last."""
    losses: int = field(default=0, init=False)
    """How often its connection was lost."""
    spent_ns: int = field(default=0, init=False)
    """How long the engine has taken for all that `score` asked, by the board's own clock."""
    _scored_before: int = field(default=0, init=False, repr=False)
    _agent: Conversation = field(init=False, repr=False)
    _classes: int | None = field(default=None, init=False, repr=False)
    _sent: dict[Path, Files] = field(default_factory=dict, init=False, repr=False)
    _opened: Callable[[], object] | None = field(default=None, init=False, repr=False)
    _inside: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        self._agent = Conversation(self.pipe, self.deadline_s, self.clock)

    @property
    def queries_total(self) -> int:
        """How many images the engine has scored since the agent started; the agent agrees."""
        return self._agent.queries_total

    @property
    def scored(self) -> int:
        """How many images the engine has scored since this began, by all agents that were started for it."""
        return self._scored_before + self._agent.queries_total

    @property
    def is_lost(self) -> bool:
        """Whether nothing more can be asked of it: the pipe failed, or an answer was impossible."""
        return self._agent.is_broken

    def lasting(self, do: Callable[[], T]) -> T:
        """Do what asks the board for something; where the connection is lost meanwhile, connect and do all of it again.

        What is asked must give the same however often it is asked; the answer that counts is a whole one. A board that
        comes back has to be the same one, and gets the engine that was open.
        """
        connection = self.connection
        if connection is None or not connection.lasts or self._inside:
            return do()
        self._inside, losses = True, 0
        try:
            while True:
                try:
                    return do()
                except BoardError as lost:
                    losses += 1
                    # An answer that cannot be true is no lost connection: asking such a board again proves nothing.
                    if not self._agent.is_cut:
                        raise
                    if losses == LOSSES:
                        raise BoardLostError(f"{lost}; so it went {LOSSES} times at the same request") from lost
                    self.losses += 1
                    connection.anew(lost, self._resume)
        finally:
            self._inside = False

    def _resume(self, pipe: Pipe) -> None:
        """Talk over ``pipe`` from now on, with the board in the state that it was in."""
        before, opened = self.facts, self._opened
        self._scored_before = self.scored
        self.pipe, self._agent = pipe, Conversation(pipe, self.deadline_s, self.clock)
        after = self.hello()
        if before and (other := next((name for name in SAME if before[name] != after[name]), None)):
            told = f"its {other} is '{after[other]}' and was '{before[other]}'"
            self.facts = before
            raise AnotherBoard(f"{pipe.where}: another board answers now: {told}; connect the one that was there")
        # A board may have lost its files with the link, or with the power.
        for folder, files in tuple(self._sent.items()):
            self.send(folder, files)
        if opened is not None:
            opened()

    def hello(self) -> Facts:
        """Return what the board says of itself; BoardError where its agent is of another version."""
        # Not `ask`: an agent of another version may answer in another form, and that has to be told as what it is.
        answer = self._agent.call("hello", {}, deadline_s=max(self.deadline_s, _START_S))
        head = answer.head
        theirs = (head.get("agent"), head.get("protocol"))
        if theirs != (ours := (RELEASE, VERSION)):
            raise BoardError(
                f"{self.pipe.where}: the agent is version {str(theirs[0])[:60]} with protocol {str(theirs[1])[:60]}, "
                f"this host is {ours[0]} with protocol {ours[1]}; see that the link starts the agent that it is given"
            )
        with self._agent.doubting():
            no_other(answer.arrays, (), "hello")
            self.facts = answer_of(answers.Hello, head, "hello").model_dump()
        return self.facts

    def probe(self, backend: str, options: Facts | None = None) -> Probe:
        """Ask whether the toolchain ``backend`` works on the board, and in which version."""
        request = {"backend": backend, "options": dict(options or {})}
        head = self.lasting(lambda: self._agent.ask(answers.Probed, "probe", request)).head
        return Probe(head.usable, head.version, head.fix, head.details)

    def identity(self) -> dict[str, str]:
        """Return which device this is, without what changes from boot to boot; `toolchain_on` adds the toolchain's."""
        facts = self.facts or self.hello()
        told = {name: str(facts[name]) for name in ("cpu_model", "board_model")}
        return {"machine": architecture_of(facts["machine"]), **told}

    def put(self, path: Path, moved: Moved = silent) -> str:
        """Send a file unless the board has it already, and return its hash; ``moved`` hears of bytes."""
        return self.lasting(lambda: transfer.put(self._agent, path, moved))

    def send(self, folder: Path, files: Files, moved: Moved = silent) -> None:
        """Send the engine in ``folder`` as far as the board does not have it; ``moved`` hears of bytes.

        ArtifactError where a file in ``folder`` is not the one that ``files`` names.
        """
        self.lasting(lambda: transfer.send(self._agent, folder, files, moved))
        self._sent[folder] = files

    def fetch(self, files: Files, folder: Path, moved: Moved = silent) -> None:
        """Write the files of an engine on the board into ``folder``; ``moved`` hears of bytes.

        A file is there as a whole, with its hash, or not at all. What is there already stays. BoardError where the
        board has another file than it said, StorageError where the disk takes no more.
        """
        self.lasting(lambda: transfer.fetch(self._agent, files, folder, moved))

    def compile(self, backend: str, onnx: str, options: Facts | None = None, deadline_s: float = 3600.0) -> Compiled:
        """Compile the ONNX file with hash ``onnx``; the toolchain says nothing meanwhile, hence the longer deadline."""
        request = {"backend": backend, "onnx": onnx, "options": dict(options or {})}
        said = self.lasting(lambda: self._agent.ask(answers.Compiled, "compile", request, deadline_s=deadline_s))
        # What was done within the call cannot have lasted longer than the call. The share allows for clocks of other
        # rates.
        if said.head.seconds > said.took_s * 1.01:
            found = f"is {said.head.seconds:.4g} s, but the whole call took {said.took_s:.4g} s here"
            raise self._agent.impossible("compile", "seconds", found)
        with self._agent.doubting():
            return Compiled(files_of(said.head.files, "compile"), said.head.seconds)

    def open_engine(
        self,
        backend: str,
        files: Files,
        options: Facts | None = None,
        deadline_s: float = 600.0,
        classes: int | None = None,
    ) -> Facts:
        """Load the engine of these ``files``, which the board has, anew, in place of the one that was open.

        Returns what really runs, as far as the toolchain tells.
        ``classes`` is how many scores it must give per image; None accepts what it gives first.
        """
        listed = [asdict(file) for file in files]
        request = {"backend": backend, "files": listed, "options": dict(options or {})}
        # From now on nothing is open: one that fails to open must not be what a lost connection gets back.
        self._opened = None
        said = self.lasting(lambda: self._agent.ask(answers.Open, "open", request, deadline_s=deadline_s)).head
        # All that is measured from here on is told as this engine's, so the board must mean the same one.
        if said.open != (asked := engine_id(files)):
            told = f"is the engine {said.open[:16]}…, and {asked[:16]}… was to be opened"
            raise self._agent.impossible("open", "open", told)
        self._classes = classes
        self._opened = lambda: self.open_engine(backend, files, options, deadline_s, classes)
        return said.runs

    def score(self, images: Bytes, batch: int | None = None) -> Scores:
        """Return one row of scores per 8-bit image; the board turns them into pixels as the host would.

        The engine is given ``batch`` images at a time, the rest at the end, and as many as suit it where that is None.
        However small the batch, the images travel together.
        """
        head, parts = {} if batch is None else {"batch": batch}, []
        for part in self._batches(images):
            parts.append(self.lasting(partial(self._scored, images[part], head)))
        return np.concatenate(parts)

    def _scored(self, images: Bytes, head: Facts) -> Scores:
        count = len(images)
        said = self._agent.ask(answers.Scored, "score", head, {"images": images}, ("scores",), queries=count)
        with self._agent.doubting():
            scores = array_of(said.arrays, "scores", "float32", (count, self._classes), "score")
            # As for the compiler: the share allows for clocks of other rates.
            if said.head.spent_ns * 1e-9 > said.took_s * 1.01:
                told = f"is {said.head.spent_ns * 1e-9:.4g} s, but the whole call took {said.took_s:.4g} s here"
                raise impossible("score", "spent_ns", told)
        # From the first answer on the width is fixed: an engine cannot change its number of classes.
        self._classes = scores.shape[1]
        self._agent.count("score", said.head, count, count)
        self.spent_ns += said.head.spent_ns
        # Scoring is the only call whose work is known in advance, so it tells the board's pace for attacks.
        self._agent.paced(said.took_s, count)
        return scores

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
    ) -> Attacked:
        """Attack the open engine on the board; return what was found and spent.

        ``budget`` is the most queries that the attack may spend on an image. ``progress`` hears the agent's running
        total of queries about once a second.
        """
        head = {"name": name, "options": dict(options), "threat": {"norm": threat.norm, "eps": threat.eps}, "key": key}
        most = _MOST_QUERIES if budget is None else budget
        found, spent, times = [], [], []
        for part in self._batches(images):
            sent = images[part]
            arrays: dict[str, Array] = {"images": sent}
            arrays |= {"labels": labels[part].astype(np.int64), "ids": ids[part].astype(np.int64)}
            all_queries = len(sent) * most
            said = self.lasting(partial(self._attacked, head, arrays, all_queries, progress))
            with self._agent.doubting():
                found.append(array_of(said.arrays, "images", "uint8", sent.shape, "attack"))
                spent.append(array_of(said.arrays, "queries", "int64", (len(sent),), "attack"))
                check_queries(spent[-1], most, (found[-1] != sent).reshape(len(sent), -1).any(1))
                times.append(array_of(said.arrays, "spent_ns", "int64", (len(sent), len(MARKS)), "attack"))
                check_times(times[-1], spent[-1], said.took_s)
            # Where the attack does not say which image a query was for, the total alone can be checked, and only from
            # above.
            known = bool((spent[-1] >= 0).all())
            least = int(spent[-1].sum()) if known else 0
            self._agent.count("attack", said.head, least, least if known else all_queries)
        return Attacked(np.concatenate(found), np.concatenate(spent), np.concatenate(times))

    def _attacked(
        self, head: Facts, arrays: dict[str, Array], queries: int, progress: Progress | None
    ) -> Said[answers.Queried]:
        wanted = ("images", "queries", "spent_ns")
        return self._agent.ask(answers.Queried, "attack", head, arrays, wanted, queries=queries, progress=progress)

    def time(self, plan: Facts, images: Bytes) -> Window:
        """Time the open engine in one window by ``plan``, see `Plan`, on ``images``, used in turn."""
        asked, part, longest = self._timing(plan, images)
        head, sent = {"plan": asdict(asked)}, {"images": part}
        said = self.lasting(lambda: self._agent.ask(answers.Window, "time", head, sent, WINDOW, deadline_s=longest))
        window = self._window("time", said, asked, part)
        self._count_window(said.head, window, asked)
        return window

    def run(self, backend: str, files: Files, options: Facts | None, plan: Facts, images: Bytes) -> Run:
        """Time the engine of these ``files``, which the board has, in a fresh process there, as `time` does.

        The engine that was open answers as before; the board opens it again when it is asked.
        """
        asked, part, longest = self._timing(plan, images)
        listed = [asdict(file) for file in files]
        head = {"backend": backend, "files": listed, "options": dict(options or {}), "plan": asdict(asked)}
        wanted, sent, longest = (*WINDOW, "telemetry"), {"images": part}, longest + _LOAD_S
        said = self.lasting(lambda: self._agent.ask(answers.Run, "run", head, sent, wanted, deadline_s=longest))
        if said.head.open != engine_id(files):
            raise self._agent.impossible(
                "run", "open", f"is the engine {said.head.open[:16]}…, which was not asked for"
            )
        window = self._window("run", said, asked, part)
        with self._agent.doubting():
            run = run_from(window, said.head, said.arrays, said.took_s)
        self._count_window(said.head, window, asked)
        return run

    def _timing(self, plan: Facts, images: Bytes) -> tuple[Plan, Bytes, float]:
        """Return the plan, the images that are used and how long an answer may take."""
        asked = _plan_from(plan)
        # The agent sends nothing while it times, as a message would disturb the samples.
        longest = asked.max_s + MOST_WARM_UP * asked.warmup_s + max(self.deadline_s, _LATENCY_MARGIN_S)
        # The timed loop must not wait for the link, so only what travels in one message is used.
        return asked, images[next(self._batches(images))], longest

    def _window(self, op: str, said: Said[answers.Window] | Said[answers.Run], plan: Plan, images: Bytes) -> Window:
        # The agent scores these before and after the window: faults by heat or another engine show as other scores.
        checked = min(CHECKED, len(images) // plan.batch) * plan.batch
        with self._agent.doubting():
            return window_from(op, said.head, said.arrays, plan, said.took_s, (checked, self._classes))

    def _count_window(self, head: answers.Window, window: Window, plan: Plan) -> None:
        """Account for every run of the engine, so that none can be left out of the samples unseen."""
        split = SPLITS if window.parts_ns else 0
        calls = window.warmup_runs + len(window.samples_ns) + split
        queries = len(window.scores_before) + len(window.scores_after) + calls * plan.batch
        self._agent.count(window.op, head, queries, queries)

    def turns(
        self, backend: str, engines: Sequence[Files], options: Facts, images: Bytes, turns: int, turn_s: float
    ) -> Array:
        """Let these engines, which the board has, take ``turns`` turns of ``turn_s`` each on ``images``.

        Returns the quickest call of each turn in nanoseconds, engines × turns. No engine is open afterwards.
        """
        listed = [[asdict(file) for file in files] for files in engines]
        head = {"backend": backend, "options": dict(options), "engines": listed, "turns": turns, "turn_s": turn_s}
        # Each engine is loaded first, which some toolchains take seconds for.
        longest = len(engines) * (2 * turns * turn_s + _LATENCY_MARGIN_S) + self.deadline_s
        self._opened = None
        said = self.lasting(
            lambda: self._agent.ask(
                answers.Queried, "turns", head, {"images": images}, ("quickest_ns",), deadline_s=longest
            )
        )
        with self._agent.doubting():
            quickest = array_of(said.arrays, "quickest_ns", "int64", (len(engines), turns), "turns")
            if quickest.min() < 1 or quickest.sum() * 1e-9 > said.took_s * 1.01:
                raise impossible("turns", "quickest_ns", f"cannot all fit into a call of {said.took_s:.4g} s")
        least = 2 * len(engines) * turns * len(images)
        self._agent.count("turns", said.head, least, int(said.took_s * 1e9))
        return quickest

    def sensors(self) -> Facts:
        """Return the board's clocks, temperatures and throttle counters as they are now."""
        return self.lasting(lambda: self._agent.ask(answers.Sensors, "sensors", {})).head.model_dump()

    def close(self) -> None:
        """Let the agent end; nothing is said where it is gone already."""
        self._agent.close()

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _batches(self, images: Bytes) -> Iterator[slice]:
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) == 0:
            raise UsageError(f"a board takes uint8 images N×C×H×W; {images.dtype} of shape {images.shape} came")
        # One image may be larger than the limit; then it travels alone.
        step = max(1, self.batch_bytes // max(1, images[0].nbytes))
        for start in range(0, len(images), step):
            yield slice(start, start + step)


@contextmanager
def board_from(link: Link, agent: Path, deadline_s: float = 60.0, say: Say | None = None) -> Iterator[Board]:
    """Start ``agent`` over ``link`` and give a board that has said hello in the same version.

    With ``say``, which hears of it, a connection that is lost later is made anew.
    """
    with (
        Connection(link, agent, say) as connection,
        Board(connection.open(), deadline_s, connection=connection) as board,
    ):
        board.lasting(board.hello)
        yield board


def _plan_from(plan: Facts) -> Plan:
    try:
        return Plan(**plan)
    except TypeError as error:
        raise UsageError(f"the latency plan is refused: {error}") from None
