"""Turns: trainings that stand still until it is their turn, so that they share one machine's good and bad minutes.

Each has a process of its own, as a training usually has: where the threads of several share one, OpenMP counts more of
them than there are cores and lets each wait so briefly that short layers take a quarter longer.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

Progress = Callable[[int, int, Mapping[str, float]], None]
Clock = Callable[[], float]


def _nothing() -> None:
    pass


class Turns:
    """One training, in a process of its own, that moves only while somebody waits in ``advance``.

    ``train`` must call the function that it is given after every step; ``finish`` waits for the device, so that a
    turn's time holds all the work that the turn has asked for. Both go to the process pickled, and so does what they
    raise on its way back. The process starts with the first turn, and ends with the ``with`` block.
    """

    def __init__(
        self,
        train: Callable[[Progress], Any],
        finish: Callable[[], None] = _nothing,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.done = 0
        """Steps made."""
        self.ended = False
        self.seconds = 0.0
        """Time of all turns together, from the first line of ``train`` to its last."""
        context = multiprocessing.get_context("spawn")
        self._pipe, self._far_end = context.Pipe()
        self._process = context.Process(target=_run, args=(train, finish, clock, self._far_end))

    def __enter__(self) -> Turns:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pipe.close()  # which is how the process learns that no turn will come
        self._far_end.close()
        if self._process.pid is not None:
            self._process.join()

    def advance(self, steps: int) -> float:
        """Let the training make ``steps`` more steps, or end; return how many seconds that took.

        Whatever ``train`` raises is raised here.
        """
        if self.ended:
            return 0.0
        if self._process.pid is None:
            self._process.start()
            self._far_end.close()
        try:
            self._pipe.send(steps)
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise RuntimeError(
                f"a training's process ended by itself, with exit code {self._process.exitcode}"
            ) from error
        if isinstance(answer, BaseException):
            self.ended = True
            raise answer
        self.done, self.ended, seconds = answer
        self.seconds += seconds
        return float(seconds)


class _Turn:
    """The far end: waits for a turn, and hands back what it took."""

    def __init__(self, finish: Callable[[], None], clock: Clock, pipe: Connection) -> None:
        self._finish, self._clock, self._pipe = finish, clock, pipe
        self._done = 0
        self._left, self._started = 0, 0.0

    def begin(self) -> None:
        """Wait for a turn; EOFError when none will come."""
        self._left = self._pipe.recv()
        self._started = self._clock()

    def after_step(self, step: int, steps: int, numbers: Mapping[str, float]) -> None:
        """Count a step, and wait for the next turn where this one is over."""
        self._done = step
        self._left -= 1
        if self._left == 0:
            self.hand_back(ended=False)
            self.begin()

    def hand_back(self, ended: bool) -> None:
        """Say how far the training is and how long this turn took."""
        self._finish()
        self._pipe.send((self._done, ended, self._clock() - self._started))


def _run(train: Callable[[Progress], Any], finish: Callable[[], None], clock: Clock, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever waits for the turn is told, and closes the pipe
    turn = _Turn(finish, clock, pipe)
    try:
        turn.begin()
        train(turn.after_step)
        turn.hand_back(ended=True)
    except (EOFError, BrokenPipeError):
        pass
    except BaseException as error:
        pipe.send(error)
