"""Patience: how long one call to a board may take, so that signs of progress never keep a host waiting for ever."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from robustdeploy.devices.answers import impossible

QUERY_S = 0.05
"""What one query may always take, an attack's own work for it among it."""
SLACK = 20
"""How many times what a query took so far the next ones may take."""
FIRST_QUERY_S = 10.0
"""What one query may take while no board's pace is known."""


@dataclass
class Patience:
    """Bears ``silence_s`` without a word, and no more in all than that and ``query_s`` for each query done.

    Progress buys time only as work does: it must rise, it ends at ``queries``, and a board that feigns it slowly is
    given up as a silent one is.
    """

    op: str
    began: float
    silence_s: float
    queries: int = 0
    """Most images that may be scored for this call; 0 where no progress is expected."""
    query_s: float = QUERY_S
    done: int = field(default=0, init=False)

    def left(self, now: float) -> tuple[float, str]:
        """Return for how many seconds to wait, should nothing be heard after ``now``, and what to say then."""
        # Time is earned by queries done since the call began. So a drip of tiny progress buys no more than its own
        # worth.
        paid = self.began + self.done * self.query_s
        if paid >= now or not self.done:
            return self.silence_s, f"no answer for {self.silence_s:g} s; the board hangs or the link is down"
        seconds = paid + self.silence_s - now
        told = f"only {self.done:,} of at most {self.queries:,} queries in {now + seconds - self.began:.4g} s"
        return seconds, f"{told}, far below its pace before; the board hangs or feigns progress"

    def heard(self, done: Any, before: int) -> None:
        """Take note that ``done`` images were scored, ``before`` of them for earlier calls."""
        # In Python True is an int, and JSON's true would pass for 1.
        if type(done) is not int:
            raise impossible(self.op, "progress", f"must be a whole number, not {repr(done)[:60]}")
        if not self.queries:
            raise impossible(self.op, "progress", "is unknown")
        least, most = before + self.done + 1, before + self.queries
        if not least <= done <= most:
            raise impossible(self.op, "progress", f"must rise, to {most:,} queries at most; it went to {done:,}")
        self.done = done - before


def pace(seconds: float, queries: int) -> float:
    """What one query may take on a board that took ``seconds`` for ``queries`` of them."""
    return max(QUERY_S, SLACK * seconds / max(1, queries))
