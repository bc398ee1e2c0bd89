"""Two sets of runs on one board compared: whether a net became slower, and by how much; the same net must not alarm.

The unit is the run. Calls of one run share its noise, so a test over calls alarms at nothing: with autocorrelated calls
and runs half a per cent apart it calls three in ten pairs of equal nets different. Each run counts as one number, the
lower quartile of its times, which noise reaches least. The numbers are compared by Mann and Whitney's exact test, which
asks for no distribution (Annals of Mathematical Statistics 18, 1947), and a change must be large enough to matter.

Runs of two evaluations are not exchangeable where others keep the board busy: they were busy in other ways each time.
There only a change is told that was never seen between equal nets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import mannwhitneyu, norm

from robustdeploy.core.reading import read_json
from robustdeploy.errors import ArtifactError

ALPHA = 0.01
LEAST = 0.02
"""Smallest change that is told where no run was disturbed."""
LEAST_DISTURBED = 0.20
"""And where runs were: `benchmarks/latency_alarms.py` saw up to 17 % between equal nets on a crowded machine."""
FEWEST_RUNS = 5
"""With four on a side no order of the runs is as rare as `ALPHA`."""
_QUARTILE = 0.25


@dataclass(frozen=True)
class Runs:
    """One number for each run of a scenario, and how many of the runs others disturbed."""

    quartiles_ms: tuple[float, ...]
    disturbed: int = 0

    @property
    def quiet(self) -> bool:
        """Whether others disturbed none of them."""
        return self.disturbed == 0


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
    least: float
    """Smallest change that is told here."""

    @property
    def text(self) -> str:
        """The change as one sentence."""
        found = f"{self.ratio:.3f} times ({self.low:.3f} to {self.high:.3f})"
        limit = f"a change below {self.least:.0%} is not told"
        if self.verdict == "alike":
            return f"no change: {found}, p {self.p:.2g}; {limit}"
        return f"{self.verdict}: {found}, p {self.p:.2g}"


def change(before: Runs, after: Runs) -> Change | str:
    """Compare two sets of runs; a text says why that cannot be done."""
    sides = [np.log(np.array(side.quartiles_ms)) for side in (before, after)]
    if min(map(len, sides)) < FEWEST_RUNS:
        return f"{len(sides[0])} and {len(sides[1])} runs are too few to compare; it takes {FEWEST_RUNS} on each side"
    differences = np.sort((sides[1][:, None] - sides[0][None, :]).ravel())
    # With ties the exact distribution is another; such runs are equal, and that is what is said.
    p = float(mannwhitneyu(*sides, method="exact").pvalue)
    shift = float(np.median(differences))
    low, high = _interval(differences, len(sides[0]), len(sides[1]))
    least = LEAST if before.quiet and after.quiet else LEAST_DISTURBED
    told = p <= ALPHA and abs(shift) > np.log1p(least)
    verdict: Literal["slower", "faster", "alike"] = "alike" if not told else "slower" if shift > 0 else "faster"
    return Change(verdict, float(np.exp(shift)), float(np.exp(low)), float(np.exp(high)), p, least)


def _interval(differences: np.ndarray[Any, Any], one: int, other: int) -> tuple[float, float]:
    """Hodges and Lehmann's interval of a shift: all that the test would not reject (normal approximation)."""
    spread = float(norm.ppf(1 - ALPHA / 2)) * (one * other * (one + other + 1) / 12) ** 0.5
    aside = max(0, int(one * other / 2 - spread))
    return float(differences[aside]), float(differences[len(differences) - 1 - aside])


def runs_of(times_ns: Sequence[Sequence[int]], disturbed: int = 0) -> Runs:
    """Make the numbers of runs from their times."""
    return Runs(tuple(float(np.quantile(times, _QUARTILE)) * 1e-6 for times in times_ns), disturbed)


def timed_runs(path: Path) -> Mapping[str, Runs] | str:
    """Read ``timings.json`` of an evaluation: its runs by scenario, or why there are none that could be compared."""
    if not path.is_file():
        return f"{path.name} is missing, so its runs cannot be compared"
    try:
        held = read_json(path)
        if not held["taken"]:
            return str(held["reason"])
        if held["flaws"]:
            return f"its latency was discarded: {held['flaws'][0]}"
        return {name: _scenario(runs) for name, runs in held["scenarios"].items()}
    except KeyError:
        return "it was timed by an older version; evaluate again"
    except (ValueError, TypeError, AttributeError, IndexError):
        raise ArtifactError(f"{path} was edited or is damaged; evaluate again") from None


def _scenario(runs: Sequence[Mapping[str, Any]]) -> Runs:
    times = []
    for run in runs:
        taken = np.array(run["samples_ns"], np.int64)
        due = int(run["period_ns"]) * np.arange(len(taken), dtype=np.int64)
        # From the moment an image was due, where it was.
        times.append(np.array(run["starts_ns"], np.int64) + taken - due if run["period_ns"] else taken)
    return runs_of(times, sum(run["disturbance"] is not None for run in runs))  # type: ignore[arg-type]


def changes(before: Mapping[str, Runs], after: Mapping[str, Runs]) -> Iterator[tuple[str, Change | str]]:
    """Compare each scenario that both sides have."""
    yield from ((name, change(runs, after[name])) for name, runs in before.items() if name in after)
