"""Turns: trainings that stand still until it is their turn, so that they share one machine's good and bad minutes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

Progress = Callable[[int, int, Mapping[str, float]], None]


class _Enough(Exception):
    """Ends a training that is not needed any more."""


class Turns:
    """One training, in a thread of its own, that moves only while somebody waits in ``advance``.

    ``train`` must call the function that it is given after every step; ``finish`` waits for the device, so that a
    turn's time holds all the work that the turn has asked for. The thread starts with the first turn.
    """

    def __init__(
        self,
        train: Callable[[Progress], Any],
        finish: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.done = 0
        """Steps made."""
        self.ended = False
        self.seconds = 0.0
        """Time of all turns together, from the first line of ``train`` to its last."""
        self._train, self._finish, self._clock = train, finish, clock
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._left = 0
        self._stopped_at = 0.0
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def result(self) -> Any:
        """What ``train`` returned, once it has ended."""
        return self._result

    def advance(self, steps: int) -> float:
        """Let the training make ``steps`` more steps, or end; return how many seconds that took.

        Whatever ``train`` raises is raised here.
        """
        if self.ended:
            return 0.0
        self._left = steps
        if not self._thread.is_alive():
            self._thread.start()
        started = self._clock()
        self._go.release()
        self._back.acquire()
        if self._error is not None:
            raise self._error
        self.seconds += self._stopped_at - started
        return self._stopped_at - started

    def stop(self) -> None:
        """End the training where it stands."""
        if self._thread.is_alive():
            self._left = -1
            self._go.release()
            self._thread.join()

    def _run(self) -> None:
        self._go.acquire()
        try:
            if self._left >= 0:
                self._result = self._train(self._after_step)
        except _Enough:
            pass
        except BaseException as error:
            self._error = error
        self.ended = True
        self._hand_back()

    def _after_step(self, step: int, steps: int, numbers: Mapping[str, float]) -> None:
        self.done = step
        self._left -= 1
        if self._left == 0:
            self._hand_back()
            self._go.acquire()
            if self._left < 0:
                raise _Enough

    def _hand_back(self) -> None:
        self._finish()
        self._stopped_at = self._clock()
        self._back.release()
