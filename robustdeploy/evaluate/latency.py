"""Latency of an engine on its board: rows where it can be trusted, and the reason where not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from robustdeploy.core.interrupts import stop_if_interrupted
from robustdeploy.core.report import Diagnostic, Measurement
from robustdeploy.core.subject import Subject
from robustdeploy.core.target import LatencyPlan, Target
from robustdeploy.devices.board import Board
from robustdeploy.devices.window import Window
from robustdeploy.evaluate.timings import STEADY_CV, STEADY_DRIFT, Figure, Timings, timings_from
from robustdeploy.onboard.sensors import throttled
from robustdeploy.onboard.types import Bytes

if TYPE_CHECKING:  # they bring torch and onnx along, which a report does without
    from robustdeploy.evaluate.attack import Progress
    from robustdeploy.evaluate.opening import Opened

_MS = 1e-6


@dataclass
class Stopwatch:
    """Takes the windows of a latency plan one by one, so that they spread over whatever else the board does.

    Neighbouring windows share their noise: a window that follows another at once says little that is new.
    """

    board: Board
    target: Target
    opened: Opened
    images: Bytes
    progress: Progress
    sleep: Callable[[float], None] = time.sleep
    windows: list[Window] = field(default_factory=list, init=False)

    def take(self) -> None:
        """Load the engine anew and time it in one window, unless all are taken or the board is emulated."""
        plan, toolchain = self.target.latency, self.target.backend
        # An emulator's time says nothing about any device, so no figure of it may exist that a report could print.
        if self.target.emulated or len(self.windows) == plan.windows:
            return
        stop_if_interrupted()
        self.progress("latency", len(self.windows), plan.windows)
        # Loading places the engine's memory anew. Windows of one load would share a lucky or unlucky placement.
        self.board.open_engine(toolchain.name, self.opened.files, toolchain.options, classes=self.opened.classes)
        self.windows.append(self.board.time(window_plan(plan), self.images))
        self.progress("latency", len(self.windows), plan.windows)

    def finish(self) -> Latency | None:
        """Take the windows that are left, with pauses of a third of ``min_s``; None where the board is emulated."""
        plan = self.target.latency
        while not self.target.emulated and len(self.windows) < plan.windows:
            # Windows in one row would meet the same disturbance, and their scatter would be too small.
            self.sleep(plan.min_s / 3)
            self.take()
        return Latency(tuple(self.windows)) if self.windows else None


def window_plan(plan: LatencyPlan) -> Mapping[str, Any]:
    """Return the share of ``plan`` that one window has, as a board takes it."""
    return {
        "batch": plan.batch,
        "warmup_s": plan.warmup_s,
        "min_s": plan.min_s / plan.windows,
        "max_s": plan.max_s / plan.windows,
        # Rounded up, so that all windows together never have fewer than were asked for.
        "min_samples": -(-plan.min_samples // plan.windows),
    }


@dataclass(frozen=True)
class Latency:
    """All windows of one engine, and what follows from them."""

    windows: tuple[Window, ...]

    @property
    def timings(self) -> Timings:
        """Statistics of the samples."""
        return timings_from([window.samples_ns for window in self.windows])

    @property
    def flaws(self) -> list[str]:
        """Why nothing can be judged by the samples; empty where nothing speaks against them."""
        found = [reason for window in self.windows for reason in throttled(window.before, window.after)]
        scores = [each for window in self.windows for each in (window.scores_before, window.scores_after)]
        # Equal to the bit: the same images on the same engine, so a difference means a fault or another engine.
        if not all(np.array_equal(each, scores[0]) for each in scores):
            found.append("the engine's scores changed while it was timed")
        return list(dict.fromkeys(found))

    @property
    def samples_ms(self) -> np.ndarray[Any, Any]:
        """All samples in the order they were taken."""
        return np.concatenate([window.samples_ns for window in self.windows]) * _MS

    @property
    def empty_ms(self) -> float:
        """Median time of an empty call in the same harness."""
        return float(np.median(np.concatenate([window.empty_ns for window in self.windows]))) * _MS

    @property
    def duration_s(self) -> float:
        """Seconds in which samples were taken."""
        return sum(window.duration_ns for window in self.windows) * 1e-9


def measured_latency(latency: Latency | None, target: Target, subject: Subject) -> tuple[Measurement, ...]:
    """Rows of latency, unless the board throttled or answered differently: then there is nothing to judge."""
    # No rows at all: a rule then finds nothing to judge and is INCONCLUSIVE, which never passes.
    if latency is None or latency.flaws:
        return ()
    timings = latency.timings
    conditions = {
        "batch": target.latency.batch,
        "windows": len(latency.windows),
        "duration_s": round(latency.duration_s, 2),
        "cv": round(timings.cv, 4),
        "drift": None if timings.drift is None else round(timings.drift, 4),
        "harness_overhead_ms": round(latency.empty_ms, 6),
        "clocks": target.clocks,
    }
    return tuple(_rows(timings, conditions, str(subject)))


_INTERVALS = {
    True: "order statistics of the samples and of the windows, 95 %",
    False: "from the quietest window to the most disturbed, at least 95 %",
}


def _rows(timings: Timings, conditions: Mapping[str, Any], subject: str) -> Iterator[Measurement]:
    """Return the percentiles that the samples support, their mean and their coefficient of variation."""
    for figure in (*timings.percentiles, timings.mean):
        if figure.value is not None:
            yield Measurement(
                metric=f"latency_ms.{figure.name}",
                subject=subject,
                value=figure.value,
                unit="ms",
                n=timings.n,
                low=figure.low,
                high=figure.high,
                conditions={"interval": _INTERVALS[timings.steady], "steady": timings.steady, **conditions},
            )
    # It is the noise itself, and has no interval: no noise is beside it that could decide.
    yield Measurement(
        metric="latency_ms.cv",
        subject=subject,
        value=timings.cv,
        unit="fraction",
        n=timings.n,
        conditions=dict(conditions),
    )


def latency_diagnostic(latency: Latency | None) -> Diagnostic:
    """Say whether the latency can be trusted, and if not, why."""
    if latency is None:
        text = "the board is emulated, so its latency says nothing and was not taken"
        return Diagnostic(id="latency-valid", level="warn", text=text)
    if reasons := latency.flaws:
        return Diagnostic(id="latency-valid", level="warn", text=f"latency was discarded: {'; '.join(reasons)}")
    timings = latency.timings
    # A warning and no block: the interval has grown with the noise and keeps a verdict honest by itself.
    drift, cv = timings.drift or 0.0, timings.cv
    found = f"the samples of {len(latency.windows)} windows varied by {cv:.1%} and drifted by {drift:+.1%}"
    limits = f"(limits {STEADY_CV:.0%} and {STEADY_DRIFT:.0%})"
    if timings.steady:
        text = f"latency was steady: {found} {limits}, and no throttling was seen"
    else:
        text = f"noise disturbed the latency: {found} {limits}. {_meaning(timings)}"
    level: Any = "ok" if timings.steady else "warn"
    return Diagnostic(id="latency-valid", level=level, text=text, value=cv, threshold=0.03)


def _meaning(timings: Timings) -> str:
    """Say what noise does to a verdict, with the figures of the highest percentile that a rule is likely to name."""
    # Few rules name p99.9, and a single stall decides it.
    told = [figure for figure in timings.percentiles if figure.value is not None and figure.name != "p99.9"]
    spread = f" ({told[-1].name}: {_span(told[-1])})" if told else ""
    return (
        "A limit is met only where the most disturbed window meets it. It is missed only where the quietest one "
        f"misses it{spread}. Anything between is INCONCLUSIVE. Stop what else runs on the board and measure again"
    )


def _span(figure: Figure) -> str:
    return f"{figure.low:.3g} to {figure.high:.3g} ms"


def timings_record(latency: Latency | None) -> dict[str, Any]:
    """Return what ``timings.json`` holds: every sample of every window, and the sensors around them."""
    if latency is None:
        return {"taken": False, "reason": "the board is emulated"}
    return {
        "taken": True,
        "flaws": latency.flaws,
        "windows": [
            {
                # Every sample: whoever doubts a percentile can compute it anew.
                "samples_ns": window.samples_ns.tolist(),
                "starts_ns": window.starts_ns.tolist(),
                "empty_ns": window.empty_ns.tolist(),
                "before": dict(window.before),
                "after": dict(window.after),
                "warmup_runs": window.warmup_runs,
                "duration_ns": window.duration_ns,
            }
            for window in latency.windows
        ],
    }
