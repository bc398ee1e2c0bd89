"""Two sets of runs on one board compared: whether a net became slower, and by how much; the same net must not alarm.

The unit is the run. Calls of one run share its noise, so a test over calls alarms at nothing: with autocorrelated calls
and runs half a per cent apart it calls three in ten pairs of equal nets different. Each run counts as one number, the
lower quartile of its times, which noise reaches least. The numbers are compared by Mann and Whitney's exact test, which
asks for no distribution (Annals of Mathematical Statistics 18, 1947), and a change must be large enough to matter.

Runs of two evaluations are not exchangeable where others keep the board busy: they are busy in other ways each time,
and equal nets were seen half as fast again. But such noise only adds time. So "slower" is told by runs after that
nobody disturbed, since those before would have been quicker still; "faster" by such runs before. Else nobody can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from robustdeploy.core.reading import read_json
from robustdeploy.errors import ArtifactError

ALPHA = 0.01
LEAST = 0.02
"""Smallest change that is told."""
FEWEST_RUNS = 5
"""With four on a side no order of the runs is as rare as `ALPHA`."""
_QUARTILE = 0.25

Number = Callable[[npt.NDArray[np.int64]], float]
"""What makes one number of a run's times."""


@dataclass(frozen=True)
class Runs:
    """One number for each run of a scenario, and which of the runs others disturbed."""

    quartiles_ms: tuple[float, ...]
    disturbed: tuple[bool, ...] = ()
    """One for each run; none was, if empty."""

    @property
    def quiet(self) -> Runs:
        """The runs that nobody disturbed."""
        if not self.disturbed:
            return self
        pairs = zip(self.quartiles_ms, self.disturbed, strict=True)
        return Runs(tuple(each for each, was_disturbed in pairs if not was_disturbed))


@dataclass(frozen=True)
class Change:
    """What became of a time between two sets of runs."""

    verdict: Literal["slower", "faster", "alike"]
    ratio: float
    """After over before."""
    low: float
    high: float
    """Its interval at 99 %."""
    p: float

    @property
    def text(self) -> str:
        """The change as one sentence."""
        found = f"{self.ratio:.3f} times ({self.low:.3f} to {self.high:.3f}), p {self.p:.2g}"
        if self.verdict == "alike":
            return f"no change: {found}; a change below {LEAST:.0%} is not told"
        return f"{self.verdict}: {found}"


@dataclass(frozen=True)
class Bounded:
    """A change of which noise may have moved one side, or both."""

    change: Change
    low: float | None
    """Lower bound of the ratio; None where noise after may have raised it."""
    high: float | None
    """Upper bound; None where noise before may have lowered it."""
    n: int
    """Runs on the side that has fewer."""


def bounded(before: Runs, after: Runs) -> Bounded | str:
    """Compare two sets of runs and say which bounds of the ratio hold in spite of noise; a text says why none could."""
    if min(len(before.quartiles_ms), len(after.quartiles_ms)) < FEWEST_RUNS:
        counts = f"{len(before.quartiles_ms)} and {len(after.quartiles_ms)}"
        return f"{counts} runs are too few to compare; it takes {FEWEST_RUNS} on each side"
    still = [len(side.quiet.quartiles_ms) >= FEWEST_RUNS for side in (before, after)]
    sides = [side.quiet if quiet else side for side, quiet in zip((before, after), still, strict=True)]
    found, n = _tested(*sides), min(len(side.quartiles_ms) for side in sides)
    # Noise only adds time: after, it raises the ratio, and before, it lowers it.
    return Bounded(found, found.low if still[1] else None, found.high if still[0] else None, n)


def change(before: Runs, after: Runs) -> Change | str:
    """Compare two sets of runs; a text says why nothing can be told."""
    found = bounded(before, after)
    if isinstance(found, str) or (found.low is not None and found.high is not None):
        return found if isinstance(found, str) else found.change
    # So noise explains a "faster" before it and a "slower" after it.
    telling = {"slower": found.low, "faster": found.high, "alike": None}[found.change.verdict]
    if telling is not None:
        return found.change
    seen = _tested(before, after)
    return (
        f"nobody can tell whether it changed: others disturbed {sum(before.disturbed)} runs before and "
        f"{sum(after.disturbed)} after, and what was seen is {seen.ratio:.3f} times; stop what else runs there"
    )


def _tested(before: Runs, after: Runs) -> Change:
    # scipy is slow to load, and a gate without a rule on times needs none of it.
    from scipy.stats import mannwhitneyu

    sides = [np.log(np.array(side.quartiles_ms)) for side in (before, after)]
    differences = np.sort((sides[1][:, None] - sides[0][None, :]).ravel())
    # With ties the exact distribution is another; such runs are equal, and that is what is said.
    p = float(mannwhitneyu(*sides, method="exact").pvalue)
    shift = float(np.median(differences))
    low, high = _interval(differences, len(sides[0]), len(sides[1]))
    told = p <= ALPHA and abs(shift) > np.log1p(LEAST)
    verdict: Literal["slower", "faster", "alike"] = "alike" if not told else "slower" if shift > 0 else "faster"
    return Change(verdict, float(np.exp(shift)), float(np.exp(low)), float(np.exp(high)), p)


def _interval(differences: np.ndarray[Any, Any], one: int, other: int) -> tuple[float, float]:
    """Hodges and Lehmann's interval of a shift: all that the test would not reject (normal approximation)."""
    from scipy.special import ndtri

    spread = float(ndtri(1 - ALPHA / 2)) * (one * other * (one + other + 1) / 12) ** 0.5
    aside = max(0, int(one * other / 2 - spread))
    return float(differences[aside]), float(differences[len(differences) - 1 - aside])


def lower_quartile(times: npt.NDArray[np.int64]) -> float:
    """Return the quarter of a run's times that noise reaches least, in the times' own unit."""
    return float(np.quantile(times, _QUARTILE))


def runs_of(times_ns: Sequence[Sequence[int]], disturbed: Sequence[bool] = (), number: Number = lower_quartile) -> Runs:
    """Make the numbers of runs from their times."""
    return Runs(tuple(number(np.array(times, np.int64)) * 1e-6 for times in times_ns), tuple(disturbed))


def timed_runs(path: Path, number: Number = lower_quartile) -> Mapping[str, Runs] | str:
    """Read ``timings.json`` of an evaluation: its runs by scenario, or why there are none that could be compared.

    ``number`` makes one number of a run's times.
    """
    if not path.is_file():
        return f"{path.name} is missing, so its runs cannot be compared"
    try:
        held = read_json(path)
        if not held["taken"]:
            return str(held["reason"])
        if held["flaws"]:
            return f"its latency was discarded: {held['flaws'][0]}"
        return {name: _scenario(runs, number) for name, runs in held["scenarios"].items()}
    except KeyError:
        return "it was timed by an older version; evaluate again"
    except (ValueError, TypeError, AttributeError, IndexError):
        raise ArtifactError(f"{path} was edited or is damaged; evaluate again") from None


def _scenario(runs: Sequence[Mapping[str, Any]], number: Number) -> Runs:
    times = []
    for run in runs:
        taken = np.array(run["samples_ns"], np.int64)
        due = int(run["period_ns"]) * np.arange(len(taken), dtype=np.int64)
        # From the moment an image was due, where it was.
        times.append(np.array(run["starts_ns"], np.int64) + taken - due if run["period_ns"] else taken)
    return runs_of(times, [run["disturbance"] is not None for run in runs], number)  # type: ignore[arg-type]


def changes(before: Mapping[str, Runs], after: Mapping[str, Runs]) -> Iterator[tuple[str, Change | str]]:
    """Compare each scenario that both sides have."""
    yield from ((name, change(runs, after[name])) for name, runs in before.items() if name in after)
