"""Latency of an engine on its board: rows where it can be trusted, and the reason where not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from robustdeploy.core.interrupts import stop_if_interrupted
from robustdeploy.core.report import Diagnostic, Measurement
from robustdeploy.core.target import Target
from robustdeploy.devices.board import Board, Timed
from robustdeploy.evaluate.attack import Progress
from robustdeploy.onboard.timing import Timings
from robustdeploy.onboard.types import Bytes


def time_engine(board: Board, target: Target, images: Bytes, progress: Progress) -> Timed | None:
    """Time the engine on real images; an emulated board's latency says nothing and is not taken."""
    if target.emulated:
        return None
    stop_if_interrupted()
    progress("latency", 0, 1)
    timed = board.time(target.latency.model_dump(), images)
    progress("latency", 1, 1)
    return timed


def measured_latency(timed: Timed | None, target: Target) -> tuple[Measurement, ...]:
    """Rows of latency, unless the board throttled or answered differently: then there is nothing to judge."""
    if timed is None or _flaws(timed):
        return ()
    timings = timed.timings
    conditions = {
        "batch": target.latency.batch,
        "duration_s": round(timings.duration_s, 2),
        "cv": round(timings.cv, 4),
        "drift": None if timings.drift is None else round(timings.drift, 4),
        "harness_overhead_ms": round(timings.overhead_ms, 6),
        "clocks": target.clocks,
    }
    return tuple(_rows(timings, conditions))


def _rows(timings: Timings, conditions: Mapping[str, Any]) -> Iterator[Measurement]:
    """Return the percentiles that the samples support, their mean and their coefficient of variation."""
    n = len(timings.samples_ns)
    for percentile in timings.percentiles:
        if percentile.value is None:
            continue
        yield Measurement(
            metric=f"latency_ms.{percentile.name}",
            where="board",
            value=percentile.value,
            unit="ms",
            n=n,
            low=percentile.low,
            high=percentile.high,
            conditions={"interval": "order statistics, 95 %", **conditions},
        )
    for name, value, unit in (("mean", timings.mean_ms, "ms"), ("cv", timings.cv, "fraction")):
        yield Measurement(
            metric=f"latency_ms.{name}", where="board", value=value, unit=unit, n=n, conditions=dict(conditions)
        )


def latency_diagnostic(timed: Timed | None) -> Diagnostic:
    """Say whether the latency can be trusted, and if not, why."""
    if timed is None:
        text = "the board is emulated, so its latency says nothing and was not taken"
        return Diagnostic(id="latency-valid", level="warn", text=text)
    if reasons := _flaws(timed):
        return Diagnostic(id="latency-valid", level="warn", text=f"latency was discarded: {'; '.join(reasons)}")
    timings = timed.timings
    drift = timings.drift or 0.0
    text = f"no throttling was seen; latency drifted by {drift:+.1%} and varied by {timings.cv:.1%} over the window"
    level: Any = "warn" if abs(drift) > 0.01 or timings.cv > 0.03 else "ok"
    return Diagnostic(id="latency-valid", level=level, text=text, value=timings.cv, threshold=0.03)


def _flaws(timed: Timed) -> list[str]:
    return [*timed.throttled, *([] if timed.same_scores else ["the engine's scores changed while it was timed"])]


def timings_record(timed: Timed | None) -> dict[str, Any]:
    """Return what ``timings.json`` holds: every sample, and the sensors around them."""
    if timed is None:
        return {"taken": False, "reason": "the board is emulated"}
    return {
        "taken": True,
        "samples_ns": timed.timings.samples_ns.tolist(),
        "before": dict(timed.before),
        "after": dict(timed.after),
        "throttled": list(timed.throttled),
        "same_scores": timed.same_scores,
        "warmup_runs": timed.timings.warmup_runs,
        "overhead_ms": timed.timings.overhead_ms,
    }
