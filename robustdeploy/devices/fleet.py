"""A fleet: the boards of one target, which share out its work; what one leaves undone when it is lost, another does.

Nothing else knows how many boards there are. A job is asked of whichever board is free, so what it gives must not
depend on which that is: noise is a function of the image, and boards that differ are refused before anything is asked.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock, Thread
from typing import Any, TypeVar

from robustdeploy.core.registry import LINKS
from robustdeploy.core.target import Target
from robustdeploy.devices.architecture import EMULATED, check_architecture, check_emulated
from robustdeploy.devices.board import SAME, Board, board_from
from robustdeploy.devices.connection import Say
from robustdeploy.devices.toolchain import installed_on
from robustdeploy.errors import BoardError, BoardLostError

T = TypeVar("T")


@dataclass
class Fleet:
    """Boards that answer, in the order of the target's links."""

    boards: list[Board]
    """Those that are left."""
    tell: Say
    """Hears of a board that is lost, where the work goes on with the others."""
    lock: AbstractContextManager[Any] = field(default_factory=RLock)
    """Held while something is told: who listens need not expect several threads."""
    began: tuple[Board, ...] = field(init=False)
    """Those that were there at the beginning."""
    _blocks: Counter[Board] = field(default_factory=Counter, init=False)
    _lost: dict[Board, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.began = tuple(self.boards)

    @property
    def is_broken(self) -> bool:
        """Whether a board that should answer does not any more."""
        return not self.boards or any(board.is_lost for board in self.boards)

    def first(self, do: Callable[[Board], T]) -> T:
        """Do on the first board that is left; where that is lost meanwhile, do all of it again on the next one."""
        while True:
            board = self.boards[0]
            try:
                return do(board)
            except BoardLostError as lost:
                self._lose(board, lost)

    def each(self, do: Callable[[Board], T]) -> dict[Board, T]:
        """Do on every board, one after the other, and return what those gave that are left."""
        found = {}
        for board in tuple(self.boards):
            try:
                found[board] = do(board)
            except BoardLostError as lost:
                self._lose(board, lost)
        return found

    def share(self, jobs: Sequence[Callable[[Board], T]], finished: Callable[[int], object]) -> list[T]:
        """Do each job on one of the boards, and return what they gave in the order of the jobs.

        A job that its board was lost over is done again by another. ``finished`` hears how many are done. After any
        other error no more are begun; it is raised once those that run have ended.
        """
        given: dict[int, T] = {}
        waiting, failures = deque(range(len(jobs))), list[BaseException]()

        def work(board: Board) -> None:
            while waiting and not failures:
                try:
                    number = waiting.popleft()
                except IndexError:  # another board has just taken the last one
                    return
                try:
                    found = jobs[number](board)
                except BoardLostError as lost:
                    waiting.appendleft(number)
                    self._lose(board, lost)
                    return
                with self.lock:
                    given[number] = found
                    self._blocks[board] += 1
                    finished(len(given))

        # Again, since a board may be lost over its job when the others have found nothing left to do.
        while len(given) < len(jobs):
            _beside_one_another(work, tuple(self.boards), failures)
            if failures:
                raise failures[0]
        return [given[number] for number in range(len(jobs))]

    def name_of(self, board: Board) -> str:
        """Return where a board is, and which of how many it is: ``jetson-b, board 2 of 3``; alone, only where."""
        of = f", board {self.began.index(board) + 1} of {len(self.began)}" if len(self.began) > 1 else ""
        return f"{board.pipe.where}{of}"

    def deeds(self) -> dict[str, Any]:
        """Return for the record, as ``boards``, what each board did; nothing where there was one alone."""
        told = [
            {
                "board": self.name_of(board),
                "boot_id": board.facts["boot_id"],
                "blocks": self._blocks[board],
                "images_scored": board.scored,
                "connections_lost": board.losses,
                "lost": self._lost.get(board, ""),
            }
            for board in self.began
        ]
        return {"boards": told} if len(told) > 1 else {}

    def _lose(self, board: Board, lost: BoardLostError) -> None:
        """Go on without ``board``; where it was the last one, nothing is left but to say why."""
        with self.lock:
            self.boards.remove(board)
            self._lost[board] = str(lost)
            if not self.boards:
                raise lost
            self.tell(f"note: {self.name_of(board)} is lost: {lost}; the others do its work")


def _beside_one_another(do: Callable[[Board], None], boards: Sequence[Board], failures: list[BaseException]) -> None:
    def kept(board: Board) -> None:
        try:
            do(board)
        # Whatever it is, it is raised in the thread that waits.
        except BaseException as failure:
            failures.append(failure)

    threads = [Thread(target=kept, args=(board,), name=board.pipe.where, daemon=True) for board in boards[1:]]
    for thread in threads:
        thread.start()
    kept(boards[0])
    for thread in threads:
        thread.join()


@contextmanager
def fleet_of(target: Target, agent: Path, say: Say, deadline_s: float = 60.0) -> Iterator[Fleet]:
    """Start ``agent`` on every board of the target that is there; ``say`` hears of connections that are lost.

    A board that does not answer is told and left out, unless it is the only one, or none does: a BoardError.
    """
    lock, boards, failed = RLock(), list[Board](), list[BoardError]()

    def tell(line: str) -> None:
        with lock:
            say(line)

    with ExitStack() as stack:
        for number, choice in enumerate(target.links, 1):
            link = LINKS.build(choice.name, choice.options)
            try:
                boards.append(stack.enter_context(board_from(link, agent, deadline_s, say=tell)))
            except BoardError as error:
                failed.append(error)
                if len(target.links) > 1:
                    tell(f"note: board {number} of {len(target.links)} is not there: {error}")
        if not boards:
            raise failed[0]
        fleet = Fleet(boards, tell, lock)
        check_fit(fleet, target)
        yield fleet


def check_fit(fleet: Fleet, target: Target) -> None:
    """Raise BoardError where a board is not one of the target's, or another kind of board than the first."""
    for board in fleet.boards:
        check_architecture(board.facts["machine"], target.arch, board.pipe.where)
        check_emulated(board.facts["board_model"], target.emulated, board.pipe.where)
    if len(fleet.boards) == 1:
        return
    kinds = fleet.each(lambda board: _kind_of(board, target))
    (first, its), *others = kinds.items()
    for board, other in others:
        # One result is told of all of them, so what decides it has to be the same.
        if unlike := next((name for name in its if its[name] != other.get(name)), None):
            raise BoardError(
                f"{fleet.name_of(board)} differs from {fleet.name_of(first)}: its {unlike} is '{other.get(unlike)}', "
                f"there it is '{its[unlike]}'; make them alike, or give it a target of its own"
            )
    machines: dict[str, Board] = {}
    for board in kinds:
        boot_id = str(board.facts["boot_id"])
        # What shares a machine disturbs its latency; on an emulated board none is taken.
        if boot_id and boot_id in machines and not target.emulated:
            raise BoardError(
                f"{fleet.name_of(board)} and {fleet.name_of(machines[boot_id])} are one machine, by its boot id "
                f"{boot_id}; name each machine once in the target's link"
            )
        machines[boot_id] = board


def _kind_of(board: Board, target: Target) -> dict[str, str]:
    """Return what must be the same on all boards of a target, by name."""
    facts, there = board.facts, installed_on(board, target)
    return {
        **{name.replace("_", " "): str(facts[name]) for name in SAME},
        "emulation": "yes" if EMULATED in facts["board_model"] else "no",
        there.name: there.version,
        **there.identity,
    }
