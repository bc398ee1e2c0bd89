"""Index: one static page of all runs in a folder, with their figures, their trends, and links to their reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from robustdeploy.core.files import atomic_write_text
from robustdeploy.engine.overview import Overview, overviews
from robustdeploy.errors import UsageError
from robustdeploy.report.page import page

FILENAME = "index.html"
_FIGURES = {"clean": "fraction", "worst": "fraction", "ops": "fraction", "p99_ms": "ms"}
_TITLES = {"clean": "Clean", "worst": "Worst case", "ops": "Operations", "p99_ms": "Latency, p99"}
OUTCOMES = ("PASS", "FAIL", "INCONCLUSIVE", "none")
"""What a run can be filtered by; ``none`` has no report yet."""


@dataclass(frozen=True)
class Trend:
    """Runs of one recipe on the same targets under the same protocol, the oldest first."""

    recipe: str
    targets: str
    protocol: str
    runs: tuple[Overview, ...]

    def values(self, figure: str) -> tuple[float, ...]:
        """Return a figure of the runs that have it."""
        return tuple(value for run in self.runs if (value := getattr(run, figure)) is not None)


def write_index(runs: Path) -> tuple[Path, int]:
    """Write the index of all runs in ``runs`` there; return its path and how many runs it lists.

    A folder that holds no run is a UsageError: a page of nothing would look like one of a wrong folder.
    """
    found = overviews(runs)
    if not found:
        raise UsageError(f"{runs} holds no run; name the folder that holds them, such as `robustdeploy index runs`")
    path = runs / FILENAME
    if path.exists() and GENERATED not in path.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise UsageError(f"{path} was not written by `robustdeploy index`, so it is left as it is; move it away")
    atomic_write_text(path, index_page(runs.resolve().name, found))
    return path, len(found)


GENERATED = '<meta name="generator" content="robustdeploy index">'


def index_page(name: str, runs: Sequence[Overview]) -> str:
    """Return the page; every text is escaped."""
    return page(
        "index.html.j2",
        charts={},
        name=name,
        runs=runs,
        links={run.name: link for run in runs if (link := _link(run))},
        figures=_FIGURES,
        titles=_TITLES,
        outcomes={each: sum(outcome_of(run) == each for run in runs) for each in OUTCOMES},
        outcome_of=outcome_of,
        trends=tuple(trends_of(runs)),
    )


def outcome_of(run: Overview) -> str:
    """Return a run's verdict; ``none`` where it has none, or one that a damaged file claims."""
    return run.verdict if run.verdict in OUTCOMES[:3] else "none"


def _link(run: Overview) -> str:
    """Return the address of a run's page beside the index; empty where there is none."""
    # A run's name may hold any character, and in an address some of them mean something else.
    return f"{quote(run.name)}/report.html" if (Path(run.folder) / "report.html").is_file() else ""


def trends_of(runs: Sequence[Overview]) -> Iterator[Trend]:
    """Yield the trends of two runs or more."""
    groups: dict[tuple[str, str, str], list[Overview]] = {}
    for run in runs:
        if run.recipe and run.targets and run.protocol:
            groups.setdefault((run.recipe, ", ".join(run.targets), run.protocol), []).append(run)
    for names, its in sorted(groups.items()):
        if len(its) > 1:
            yield Trend(*names, tuple(sorted(its, key=lambda run: run.began or "")))
