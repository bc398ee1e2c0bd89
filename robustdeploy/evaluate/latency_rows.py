"""Rows of latency: percentiles, responses, throughput, memory, loading and energy, where they can be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from robustdeploy.core.metrics import LATENCY_FRACTION
from robustdeploy.core.report import Diagnostic, Measurement
from robustdeploy.core.subject import DENSE, Subject, subject_from
from robustdeploy.core.target import Scenario, Target
from robustdeploy.evaluate.fraction import Fraction
from robustdeploy.evaluate.latency import Latency
from robustdeploy.evaluate.paced import share_of
from robustdeploy.evaluate.telemetry import disturbance, energy_of
from robustdeploy.evaluate.timings import STEADY_CV, STEADY_DRIFT, Figure, Timings, over_runs

_MIB = 1 << 20
_MS = 1e-6
_STEADY = "order statistics of the samples and of the runs, 95 %"
_UNSTEADY = "from the quietest run to the most disturbed, at least 95 %"
_DISTURBED = "from the quickest call of all to the most disturbed run, since all runs were disturbed"
_RANGE = "from the lowest run to the highest"
PERCENTILES_OF: Mapping[Scenario, str] = {"single-stream": "latency_ms", "paced": "response_ms"}


def measured_latency(latency: Latency | None, subject: Subject) -> tuple[Measurement, ...]:
    """Rows of all that was timed, unless something speaks against it: then there is nothing to judge."""
    # No rows at all: a rule then finds nothing to judge and is INCONCLUSIVE, which never passes.
    if latency is None or latency.flaws:
        return ()
    return tuple(_Rows(latency, str(subject)).every())


class _Rows:
    """Makes the rows of one engine's runs."""

    def __init__(self, latency: Latency, subject: str) -> None:
        self._latency = latency
        self._subject = subject
        target = latency.target
        self._conditions = {
            "batch": target.latency.batch,
            "runs": target.latency.runs,
            "harness_overhead_ms": round(latency.empty_ms, 6),
            "clocks": target.clocks,
        }

    def every(self) -> Iterator[Measurement]:
        for scenario in self._latency.scenarios:
            timings = self._latency.timings(scenario)
            if scenario in PERCENTILES_OF:
                yield from self._percentiles(scenario, timings)
            if scenario == "paced":
                yield from self._paced(timings)
            if scenario == "offline":
                yield self._throughput(timings)
        if (fraction := self._latency.fraction) is not None:
            yield self._fraction(fraction)
        yield from self._costs()
        yield from self._energy()

    def _fraction(self, found: Fraction) -> Measurement:
        told = {
            "against": str(subject_from(self._subject).of(DENSE)),
            "pairs_of_runs": found.n,
            "interval": "order statistics of the fractions of runs that took turns, 95 %",
        }
        figure = Figure("fraction", found.value, found.low, found.high)
        return self._row(LATENCY_FRACTION, figure, "fraction", found.n, {**self._conditions, **told})

    def _conditions_of(self, scenario: Scenario, timings: Timings) -> dict[str, Any]:
        runs = self._latency.scenarios[scenario]
        plan = self._latency.target.latency
        paced = {"period_ms": plan.period_ms, "deadline_ms": plan.due_ms} if scenario == "paced" else {}
        return {
            **self._conditions,
            **paced,
            "runs": len(runs),
            "undisturbed_runs": timings.undisturbed,
            "duration_s": round(sum(run.window.duration_ns for run in runs) * 1e-9, 2),
            "cv": round(timings.cv, 4),
            "drift": None if timings.drift is None else round(timings.drift, 4),
            # Runs whose calls were still getting quicker when sampling began would put a cold engine's times in.
            "warm_runs": sum(run.window.warm for run in runs),
            "steady": timings.steady,
            "interval": _STEADY if timings.steady else _UNSTEADY if timings.undisturbed else _DISTURBED,
        }

    def _row(self, metric: str, figure: Figure, unit: str, n: int, conditions: Mapping[str, Any]) -> Measurement:
        assert figure.value is not None
        return Measurement(
            metric=metric,
            subject=self._subject,
            value=figure.value,
            unit=unit,
            n=n,
            low=figure.low,
            high=figure.high,
            conditions=dict(conditions),
        )

    def _percentiles(self, scenario: Scenario, timings: Timings) -> Iterator[Measurement]:
        """Return the percentiles that the samples support, their mean and their coefficient of variation."""
        name, conditions = PERCENTILES_OF[scenario], self._conditions_of(scenario, timings)
        unanswered = sum(each.unanswered for each in self._latency.responses) if scenario == "paced" else 0
        if unanswered:
            conditions |= {"unanswered": unanswered}
        for figure in (*timings.percentiles, timings.mean):
            if figure.value is not None:
                # What still waited at the end would have taken longer; nobody knows how much.
                told = replace(figure, high=None) if unanswered else figure
                yield self._row(f"{name}.{figure.name}", told, "ms", timings.n, conditions)
        if scenario == "single-stream":
            # It is the noise itself, and has no interval: no noise is beside it that could decide.
            left = {key: value for key, value in conditions.items() if key not in ("interval", "steady")}
            yield self._row(f"{name}.cv", Figure("cv", timings.cv), "fraction", timings.n, left)

    def _paced(self, timings: Timings) -> Iterator[Measurement]:
        found, quiet = self._latency.responses, self._latency.quiet("paced")
        conditions = self._conditions_of("paced", timings) | {
            "interval": "exact at 95 %, widened to the least of a quiet run and the most of any",
        }
        for metric, flags in (
            ("deadline_miss_fraction", [each.late for each in found]),
            ("overrun_fraction", [each.overrun for each in found]),
        ):
            counted = conditions | {"counted": int(sum(each.sum() for each in flags))}
            yield self._row(metric, share_of(metric, flags, quiet), "fraction", timings.n, counted)

    def _throughput(self, timings: Timings) -> Measurement:
        runs, batch = self._latency.scenarios["offline"], self._latency.target.latency.batch
        rates = [batch * len(run.window.samples_ns) / (run.window.duration_ns * 1e-9) for run in runs]
        figure = over_runs("throughput", rates)
        if not timings.steady and not timings.undisturbed:
            # Noise only takes images away: without it, every call might have been as quick as the quickest.
            quickest = min(int(run.window.samples_ns.min()) for run in runs)
            figure = replace(figure, high=max(figure.high or 0.0, batch / (quickest * 1e-9)))
        conditions = self._conditions_of("offline", timings) | {"interval": _RANGE}
        return self._row("throughput_images_s", figure, "images/s", timings.n, conditions)

    def _costs(self) -> Iterator[Measurement]:
        """What a fresh process costs before its first answer, in memory, and in the parts of a call."""
        runs, conditions = self._latency.runs, {**self._conditions, "interval": _RANGE}
        n = len(runs)
        starts = round(float(np.median([run.start_ns for run in runs])) * _MS, 3)
        first = {"first_run_ms": round(runs[0].load_ns * _MS, 3), "process_start_ms": starts}
        yield self._row(
            "load_ms", over_runs("load", [run.load_ns * _MS for run in runs]), "ms", n, {**conditions, **first}
        )
        cold = [run.window.first_ns * _MS for run in runs if run.window.first_ns is not None]
        if cold:
            yield self._row("first_inference_ms", over_runs("first", cold), "ms", len(cold), conditions)
        if all(run.window.peak_memory_bytes for run in runs):
            peaks = [run.window.peak_memory_bytes / _MIB for run in runs]
            figure = replace(over_runs("peak", peaks), value=max(peaks))
            told = {**conditions, "of": "the process that loads the toolchain and runs the engine, Python included"}
            yield self._row("peak_memory_mib", figure, "MiB", n, told)
        for name in runs[0].window.parts_ns:
            medians = [float(np.median(run.window.parts_ns[name])) * _MS for run in runs if run.window.parts_ns]
            yield self._row(f"{name}_ms", over_runs(name, medians), "ms", len(medians), conditions)

    def _energy(self) -> Iterator[Measurement]:
        for scenario in ("single-stream", "offline"):
            if scenario in self._latency.scenarios:
                runs, batch = self._latency.scenarios[scenario], self._latency.target.latency.batch
                if (energy := energy_of(runs, batch)).millijoules:
                    told = {"rails": ", ".join(energy.rails), "of": "the whole board while it is timed, idle included"}
                    conditions = {**self._conditions, **told, "interval": _RANGE}
                    yield self._row("energy_mj", over_runs("energy", energy.millijoules), "mJ", len(runs), conditions)
                return


def latency_diagnostics(latency: Latency | None) -> Iterator[Diagnostic]:
    """Say whether what was timed can be trusted, and what cannot be known of it."""
    yield latency_diagnostic(latency)
    if latency is not None:
        if latency.pairs:
            yield gain_diagnostic(latency)
        yield energy_diagnostic(latency)
        if latency.target.memory_limit_mib is not None:
            yield memory_diagnostic(latency, latency.target.memory_limit_mib)


def latency_diagnostic(latency: Latency | None) -> Diagnostic:
    """Say whether the latency can be trusted, and if not, why."""
    if latency is None:
        text = "the board is emulated, so its latency says nothing and was not taken"
        return Diagnostic(id="latency-valid", level="warn", text=text)
    if reasons := latency.flaws:
        return Diagnostic(id="latency-valid", level="warn", text=f"latency was discarded: {'; '.join(reasons)}")
    scenario: Scenario = next(iter(latency.scenarios))
    timings = latency.timings(scenario)
    # A warning and no block: the interval has grown with the noise and keeps a verdict honest by itself.
    drift, cv = timings.drift or 0.0, timings.cv
    spread = f"varied by {100 * cv:.1f} % and drifted by {100 * drift:+.1f} %"
    found = f"the samples of {len(latency.scenarios[scenario])} runs {spread}"
    limits = f"(limits {100 * STEADY_CV:.0f} % and {100 * STEADY_DRIFT:.0f} %)"
    unsupported = "".join(f". There is no {each.name}: {each.reason}" for each in timings.percentiles if each.reason)
    if timings.steady:
        text = f"latency was steady: {found} {limits}, and no throttling was seen{unsupported}"
    else:
        text = f"noise disturbed the latency: {found} {limits}. {_meaning(latency, scenario, timings)}{unsupported}"
    level: Any = "ok" if timings.steady else "warn"
    return Diagnostic(id="latency-valid", level=level, text=text, value=cv, threshold=0.03)


def _meaning(latency: Latency, scenario: Scenario, timings: Timings) -> str:
    """Say what noise does to a verdict, with the figures of the highest percentile that a rule is likely to name."""
    # Few rules name p99.9, and a single stall decides it.
    told = [figure for figure in timings.percentiles if figure.value is not None and figure.name != "p99.9"]
    spread = f" ({told[-1].name}: {_span(told[-1])})" if told else ""
    disturbed = [why for run in latency.scenarios[scenario] if (why := disturbance(run)) is not None]
    missed = "where the quietest one misses it"
    if disturbed and not timings.undisturbed:
        missed = "where even the quickest call misses it, since others disturbed every run"
    # The highest percentile is what noise makes the most of: it is told as the bound that it is.
    rare = next((figure for figure in timings.percentiles if figure.name == "p99.9" and figure.value is not None), None)
    rarest = "" if rare is None else f". Of p99.9 these samples tell that it is {rare.high:.3g} ms at most"
    example = f". In {len(disturbed)} runs others kept the board busy, e.g. {disturbed[0]}" if disturbed else ""
    return (
        f"A limit is met only where the most disturbed run meets it. It is missed only {missed}{spread}. "
        f"Anything between is INCONCLUSIVE. Stop what else runs on the board and measure again{rarest}{example}"
    )


def _span(figure: Figure) -> str:
    return f"{figure.low:.3g} to {figure.high:.3g} ms"


def gain_diagnostic(latency: Latency) -> Diagnostic:
    """Say whether pruning bought time on this target: fewer operations are not fewer milliseconds."""
    found = latency.fraction
    if found is None:
        text = "whether it is faster than the dense net cannot be told, as their runs are not to be trusted"
        return Diagnostic(id="faster-than-dense", level="warn", text=text)
    value, low, high = (f"{100 * each:.1f}" for each in (found.value, found.low, found.high))
    what_helps = _what_helps(latency.target)
    took = f"it takes {value} % of the dense net's time, {low} to {high} %"
    if found.high < 1:
        text = f"{took}: pruning bought time here"
    elif found.low > 1:
        text = f"{took}: pruning made it slower here. {what_helps}"
    else:
        text = f"{took}: it is not known to be faster. {what_helps}"
    level: Literal["ok", "warn"] = "ok" if found.high < 1 else "warn"
    return Diagnostic(id="faster-than-dense", level=level, text=text, value=found.value, threshold=1.0)


def _what_helps(target: Target) -> str:
    # Kernels work on channels in blocks, and what does not fill one takes as long as a whole one.
    if target.channel_multiple > 1:
        multiple = f"multiples of {target.channel_multiple} (budget.preferred_multiple)"
    else:
        multiple = f"the multiple that `robustdeploy profile --target {target.name}` finds (budget.preferred_multiple)"
    return f"What helps: channels in {multiple}, a limit on the time itself (--latency-target), or a smaller budget"


def energy_diagnostic(latency: Latency) -> Diagnostic:
    """Say whose energy an image costs, or why that is not known; nothing is ever told as 0."""
    scenario = next((name for name in latency.scenarios if name != "paced"), None)
    if scenario is None:
        text = "energy is unavailable: it is told of images that follow each other at once, and none were timed"
    elif (energy := energy_of(latency.scenarios[scenario], latency.target.latency.batch)).reason:
        text = f"energy is unavailable: {energy.reason}"
    else:
        text = f"energy was read from {', '.join(energy.rails)} while the engine was timed"
    return Diagnostic(id="energy", level="ok", text=text)


def memory_diagnostic(latency: Latency, limit_mib: int) -> Diagnostic:
    """Compare the peak of the engine's process with what the target allows."""
    peak = max(run.window.peak_memory_bytes for run in latency.runs) / _MIB
    if not peak:
        text = f"the target allows {limit_mib:,} MiB, and the board does not tell what the engine's process held"
    else:
        text = f"the engine's process held up to {peak:,.0f} MiB, and the target allows {limit_mib:,} MiB"
    blocked = not 0 < peak <= limit_mib
    return Diagnostic(id="memory-limit", level="block" if blocked else "ok", text=text, value=peak, threshold=limit_mib)
