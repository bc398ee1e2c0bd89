"""Latency of an engine on its board: separate runs, each in a fresh process, and what speaks against them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from robustdeploy.core.interrupts import stop_if_interrupted
from robustdeploy.core.target import LatencyPlan, Scenario, Target
from robustdeploy.devices.board import Board
from robustdeploy.devices.run import Run
from robustdeploy.evaluate.fraction import LEAST, Fraction, fraction_of
from robustdeploy.evaluate.paced import Responses, responses_of
from robustdeploy.evaluate.telemetry import disturbance, doubts
from robustdeploy.evaluate.timings import Timings, timings_from
from robustdeploy.onboard.engine import Files
from robustdeploy.onboard.types import Bytes

if TYPE_CHECKING:  # they bring torch and onnx along, which a report does without
    from robustdeploy.evaluate.attack import Progress
    from robustdeploy.evaluate.opening import Opened

_MS = 1e-6


@dataclass
class Stopwatch:
    """Takes the runs of a latency plan one by one, so that they spread over whatever else the board does.

    Neighbouring runs share their noise: a run that follows another at once says little that is new.
    """

    board: Board
    target: Target
    opened: Opened
    images: Bytes
    progress: Progress
    sleep: Callable[[float], None] = time.sleep
    dense: Files | None = None
    """Engine of the dense net, which the board has too; its runs take turns with the subject's."""
    pairs: list[tuple[Run, Run]] = field(default_factory=list, init=False)
    runs: dict[Scenario, list[Run]] = field(default_factory=dict, init=False)

    @property
    def _taken(self) -> int:
        return min((len(self.runs.get(name, ())) for name in self.target.latency.scenarios), default=0)

    def take(self) -> None:
        """Time one run of each scenario in a fresh process, unless all are taken or the board is emulated."""
        plan, toolchain = self.target.latency, self.target.backend
        # An emulator's time says nothing about any device, so no figure of it may exist that a report could print.
        if self.target.emulated or self._taken == plan.runs:
            return
        stop_if_interrupted()
        self.progress("latency", self._taken, plan.runs)
        for scenario in plan.scenarios:
            # A process of its own: runs of one process would share a lucky or unlucky placement in memory.
            def timed(files: Files, asked: Mapping[str, Any] = run_plan(plan, scenario)) -> Run:
                return self.board.run(toolchain.name, files, toolchain.options, asked, self.images)

            if self.dense is None or scenario != self._compared:
                run = timed(self.opened.files)
            elif len(self.pairs) % 2:
                # Now one first and now the other, so that neither always meets a board that the other has warmed.
                other, run = timed(self.dense), timed(self.opened.files)
                self.pairs.append((run, other))
            else:
                run, other = timed(self.opened.files), timed(self.dense)
                self.pairs.append((run, other))
            self.runs.setdefault(scenario, []).append(run)
        self.progress("latency", self._taken, plan.runs)

    def finish(self) -> Latency | None:
        """Take the runs that are left, with pauses of a third of ``min_s``; None where the board is emulated."""
        plan = self.target.latency
        while not self.target.emulated and self._taken < plan.runs:
            # Runs in one row would meet the same disturbance, and their scatter would be too small.
            self.sleep(plan.min_s / 3)
            self.take()
        taken = {scenario: tuple(runs) for scenario, runs in self.runs.items()}
        return Latency(taken, self.target, tuple(self.pairs)) if taken else None

    @property
    def _compared(self) -> Scenario | None:
        """The scenario in which the dense net takes turns: calls that follow each other at once, where there is one."""
        return next((name for name in self.target.latency.scenarios if name != "paced"), None)


def run_plan(plan: LatencyPlan, scenario: Scenario = "single-stream") -> Mapping[str, Any]:
    """Return the share of ``plan`` that one run has, as a board takes it."""
    return {
        "batch": plan.batch,
        "warmup_s": plan.warmup_s,
        "min_s": plan.min_s / plan.runs,
        "max_s": plan.max_s / plan.runs,
        # Rounded up, so that all runs together never have fewer than were asked for.
        "min_samples": -(-plan.min_samples // plan.runs),
        "period_ns": round((plan.period_ms or 0) * 1e6) if scenario == "paced" else 0,
    }


@dataclass(frozen=True)
class Latency:
    """All runs of one engine, by scenario, and what follows from them."""

    scenarios: Mapping[Scenario, tuple[Run, ...]]
    target: Target
    pairs: tuple[tuple[Run, Run], ...] = ()
    """Runs that took turns with the dense net's: the subject's and the dense net's."""

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """All of them, in the order of their times."""
        every = [run for runs in self.scenarios.values() for run in runs]
        return tuple(sorted(every, key=lambda run: run.window.began_ns))

    @cached_property
    def flaws(self) -> list[str]:
        """Why nothing can be judged by the samples; empty where nothing speaks against them."""
        found = doubts(self.runs, self.target.clocks == "locked")
        scores = [each for run in self.runs for each in (run.window.scores_before, run.window.scores_after)]
        # Equal to the bit: the same images on the same engine, so a difference means a fault or another engine.
        if not all(np.array_equal(each, scores[0]) for each in scores):
            found.append("the engine's scores changed while it was timed")
        return list(dict.fromkeys(found))

    @cached_property
    def fraction(self) -> Fraction | None:
        """Return the median time over the dense net's; None where there is none, or something speaks against it."""
        dense = tuple(other for _, other in self.pairs)
        if len(dense) < LEAST or self.flaws or doubts(dense, self.target.clocks == "locked"):
            return None
        times = [[float(np.median(run.window.samples_ns)) for run in side] for side in zip(*self.pairs, strict=True)]
        return fraction_of(*times)

    def quiet(self, scenario: Scenario) -> list[bool]:
        """Say of each run of a scenario whether the board did little else meanwhile."""
        return [disturbance(run) is None for run in self.scenarios[scenario]]

    def timings(self, scenario: Scenario) -> Timings:
        """Return the statistics of the times of one scenario: of responses where it is paced, else of calls."""
        if scenario == "paced":
            times = [responses.times_ns for responses in self.responses]
        else:
            times = [run.window.samples_ns for run in self.scenarios[scenario]]
        return timings_from(times, self.quiet(scenario))

    @cached_property
    def responses(self) -> list[Responses]:
        """What each paced run says."""
        deadline_ns = round((self.target.latency.due_ms or 0) * 1e6)
        return [responses_of(run.window, deadline_ns) for run in self.scenarios.get("paced", ())]

    @property
    def samples_ms(self) -> np.ndarray[Any, Any]:
        """All samples of the first scenario in the order they were taken."""
        first = next(iter(self.scenarios.values()))
        return np.concatenate([run.window.samples_ns for run in first]) * _MS

    @property
    def empty_ms(self) -> float:
        """Median time of an empty call in the same harness."""
        return float(np.median(np.concatenate([run.window.empty_ns for run in self.runs]))) * _MS


def timings_record(latency: Latency | None) -> dict[str, Any]:
    """Return what ``timings.json`` holds: every sample of every run, and what the sensors said meanwhile."""
    if latency is None:
        return {"taken": False, "reason": "the board is emulated"}
    return {
        "taken": True,
        "flaws": latency.flaws,
        "scenarios": {name: [_recorded(run) for run in runs] for name, runs in latency.scenarios.items()},
        # In the order of the runs that they took turns with.
        "dense": [_recorded(other) for _, other in latency.pairs],
    }


def _recorded(run: Run) -> dict[str, Any]:
    window = run.window
    return {
        # Every sample: whoever doubts a percentile can compute it anew.
        "samples_ns": window.samples_ns.tolist(),
        "starts_ns": window.starts_ns.tolist(),
        "empty_ns": window.empty_ns.tolist(),
        "parts_ns": {name: taken.tolist() for name, taken in window.parts_ns.items()},
        "period_ns": window.period_ns,
        "began_ns": window.began_ns,
        "duration_ns": window.duration_ns,
        "warmup_runs": window.warmup_runs,
        "warm": window.warm,
        "start_ns": run.start_ns,
        "load_ns": run.load_ns,
        "first_ns": window.first_ns,
        "peak_memory_bytes": window.peak_memory_bytes,
        "disturbance": disturbance(run),
        "before": dict(window.before),
        "after": dict(window.after),
        "telemetry": run.telemetry.record(),
    }
