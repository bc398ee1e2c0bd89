"""Story: what stands at the head of the page, and at its end what the numbers do not say."""

from __future__ import annotations

from collections.abc import Iterator

from robustdeploy.core.figures import Making
from robustdeploy.core.report import Report
from robustdeploy.onboard.types import SIGNS
from robustdeploy.report.quantity import eps_text
from robustdeploy.report.words import time_text


def facts_of(report: Report) -> Iterator[tuple[str, str]]:
    """Yield of which net, recipe, data and commit a report tells, each with its name."""
    made, ball = report.making, _ball(report)
    if made is not None:
        yield "Net", made.net
        yield "Recipe", made.recipe
    if report.data.get("name"):
        counts = [
            f"{n:,} {name}" for name in ("train", "validation", "test") if type(n := report.data.get(name)) is int
        ]
        yield "Data", f"{report.data['name']}{' (' + ' + '.join(counts) + ')' if counts else ''}"
    if isinstance(steps := report.data.get("preprocess"), list) and steps:
        yield "In front of the net", "; ".join(map(str, steps))
    if made is not None:
        yield "Training", ", ".join(_training(made)) or "elsewhere"
    if made is not None and made.commit:
        yield "Git commit", made.commit[:12] + made.commit[40:]
    yield (
        "Threat",
        f"{ball} ball of radius {eps_text(report.threat.eps)}, pixels in [0, 1]",
    )
    yield "Written", f"{report.created.replace('T', ' ').replace('+00:00', ' UTC')} by {report.producer}"


def _ball(report: Report) -> str:
    return SIGNS.get(report.threat.norm, report.threat.norm)


def _training(made: Making) -> Iterator[str]:
    if made.task:
        yield made.task
    if made.epochs:
        yield f"{made.epochs:,} epochs"
    if made.seconds is not None:
        yield time_text(made.seconds)


def limits_of_validity(report: Report) -> tuple[str, ...]:
    """Return what the numbers of a report do not say, one sentence each."""
    counts = {row.n for row in report.measurements if row.metric == "clean_accuracy"}
    images = f"{max(counts):,} test images" if counts else "the test images"
    timed = any(row.metric.startswith(("latency_ms.", "response_ms.")) for row in report.measurements)
    attacks = {row.attack for row in report.measurements if row.metric == "robust_accuracy"} - {"worst", None}
    return (
        f"Threat: changes of at most {eps_text(report.threat.eps)} in {_ball(report)}, "
        "of pixels in [0, 1]. Larger ones, rotations or dirt on the lens were not tried under this name.",
        f"Attacks: {len(attacks)} were run. Robust accuracy is an upper bound, since a stronger attack may find more.",
        f"Data: {images} stand for the population that they were drawn from, and for no other. Intervals cover this "
        "sampling error alone.",
        "Build: every number is of the files whose SHA-256 stand below. Another build, toolchain or precision is "
        "another subject.",
        "Board: times hold for this board, in the state that is described."
        if timed
        else "Board: no time was measured, so nothing is said of latency.",
    )
