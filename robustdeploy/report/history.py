"""History: earlier runs that a report may be held against, as a trend."""

from __future__ import annotations

from robustdeploy.core.figures import Past
from robustdeploy.core.report import Report
from robustdeploy.engine.overview import Overview, overview, overviews, protocol_of
from robustdeploy.engine.run import Run

LONGEST = 8
"""Earlier runs that are told."""
_FIGURES = ("clean", "worst", "ops", "p99_ms")


def history_of(run: Run, report: Report) -> tuple[Past, ...]:
    """Return the runs beside ``run`` that began before it, of the same recipe, targets and protocol; the oldest first.

    What is damaged or has no report is left out.
    """
    began = overview(run.root).began
    protocol = protocol_of(report.model_dump(mode="json"))
    same = [
        each
        for each in overviews(run.root.parent)
        if (each.recipe, each.targets, each.protocol) == (run.recipe.name, report.targets, protocol)
        and each.began is not None
        and began is not None
        and each.began < began
    ]
    return tuple(past_of(each) for each in sorted(same, key=lambda each: each.began or "")[-LONGEST:])


def past_of(run: Overview) -> Past:
    """Return the figures of a run, as a point of a trend."""
    figures = {name: getattr(run, name) for name in _FIGURES}
    return Past(name=run.name, began=run.began or "", **figures)
