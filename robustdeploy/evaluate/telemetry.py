"""Telemetry judged: whether a board's sensors speak against its timings, and what noise or energy they tell of.

Two kinds of findings. A *doubt* means that no timing can be judged: the board was held down, paused or changed, or its
sensors cannot be believed. A *disturbance* only adds time: others kept the processors busy. What even disturbed samples
meet is met all the same; that something is missed is then told by undisturbed runs alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from robustdeploy.devices.run import Run, Telemetry
from robustdeploy.onboard.sensors import throttled
from robustdeploy.onboard.telemetry import SILENT
from robustdeploy.onboard.timing import Nanoseconds

_STEP_NS, _STEP_SHARE = 20_000_000, 0.001
"""How far two clocks of a board may run apart between readings: NTP slews by 0.05 % at most."""
_PAUSE_NS = 1_000_000_000
"""Longest time between two readings that nothing explains."""
_FROZEN_MS = 200
"""From which time on counters of processor time must have moved, since the reader itself uses some."""
_FROZEN_READINGS, _FROZEN_NS = 20, 10_000_000_000
"""Readings, and the time from the first to the last, over which heat and power cannot all stay what they were."""
_PIN = 0.01
"""How far a clock that is locked may be from its setting."""
_TURBO = 1.1
_DEGREES_MC = (-60_000, 150_000)
_MOST_UW = 10_000_000_000
_WAITED, _STOLEN, _OTHERS, _QUEUE = 0.05, 0.05, 0.25, 1.5
"""From which on a run is disturbed: its share of waiting, the share stolen, processors that others kept busy, and ready
threads per processor."""
_TOTAL = ("VDD_IN", "VDDIN", "POM_5V_IN", "VIN", "VDD_TOTAL")
"""Names of the rail that all of a Jetson's module is fed by."""


def doubts(runs: Sequence[Run], locked: bool) -> list[str]:
    """Return why no timing of ``runs`` can be judged, each reason once; ``locked``: the target demands fixed clocks."""
    found: dict[str, None] = {}
    for run in runs:
        found |= dict.fromkeys(_of_run(run, locked))
    for one, other in pairwise(runs):
        found |= dict.fromkeys(throttled(one.window.before, {**other.window.before, **_UNCOUNTED}))
        found |= dict.fromkeys(_absent(one.telemetry, other.telemetry))
    found |= dict.fromkeys(_frozen_over(runs))
    return list(found)


_UNCOUNTED: Mapping[str, Any] = {"throttle_counts": {}, "overcurrent_counts": {}, "cooling": {}, "thermal": {}}
"""Between two runs a board may have cooled or throttled as it likes."""


def _of_run(run: Run, locked: bool) -> Iterator[str]:
    yield from throttled(run.window.before, run.window.after)
    telemetry = run.telemetry
    yield from _clocks_apart(telemetry)
    yield from _paused(telemetry)
    yield from _silent(telemetry)
    yield from _throttled_meanwhile(run)
    yield from _stood_still(telemetry)
    yield from _impossible(run)
    if locked:
        yield from _unlocked(run)


def _clocks_apart(telemetry: Telemetry) -> Iterator[str]:
    passed = np.diff(telemetry.values[:, 0])
    tolerance = _STEP_NS + _STEP_SHARE * passed
    for column, told in (
        (3, "the board's wall clock was set by {} s while it was timed"),
        (1, "the board's monotonic clock jumped by {} s against the processor's own"),
        (2, "the board was suspended for {} s while it was timed"),
    ):
        apart = np.diff(telemetry.values[:, column]) - passed
        if (np.abs(apart) > tolerance).any():
            yield told.format(f"{max(apart.tolist(), key=abs) * 1e-9:.3g}")


def _paused(telemetry: Telemetry) -> Iterator[str]:
    stops = telemetry.column("own_stops")
    if stops is not None and int(stops.max()) > 0:
        yield "the timed process was stopped by a signal while it was timed"
    passed = np.diff(telemetry.values[:, 0])
    usual = float(np.median(passed))
    explained = np.zeros(len(passed))
    for name in ("agent_cpu_ns", "agent_wait_ns"):
        column = telemetry.column(name)
        if column is not None and not (column == SILENT).any():
            explained = explained + np.diff(column)
    rest = passed - explained - 5 * usual
    if len(passed) > 1 and float(rest.max()) > _PAUSE_NS:
        yield f"nothing of the agent ran for {passed[rest == rest.max()][0] * 1e-9:.3g} s while it timed: it was paused"


def _silent(telemetry: Telemetry) -> Iterator[str]:
    """A sensor that answered at first and then no more; one that misses a reading now and then is no fault."""
    silent = telemetry.values == SILENT
    for index, name in enumerate(telemetry.channels):
        column = silent[:, index]
        if not column[0] and (column[-1] or column[1:].mean() > 0.5):
            yield f"the sensor {name} answered at first and fell silent"


def _absent(one: Telemetry, other: Telemetry) -> Iterator[str]:
    gone = set(one.channels) - set(other.channels)
    yield from (f"the sensor {name} answered in one run and was gone in the next" for name in sorted(gone))


def _throttled_meanwhile(run: Run) -> Iterator[str]:
    """What a look before and after alone would miss."""
    telemetry = run.telemetry
    for kind, what in (("throttled", "thermal throttling"), ("overcurrent", "over-current throttling")):
        for name, values in _answered(telemetry, kind):
            if (times := int((values - values[0]).max())) > 0:
                yield f"{what} was counted {times} times by {name}"
    for name, values in _answered(telemetry, "cooling"):
        if (state := int(values.max())) > 0:
            yield f"the cooling device {name} is in state {state}: something is slowed down"
    for name, values in _answered(telemetry, "allowed_khz"):
        if (lowest := int(values.min())) < values[0]:
            yield f"the highest clock allowed on {name} fell from {values[0]} to {lowest} kHz"
    for name, values in _answered(telemetry, "governor"):
        if len(seen := list(dict.fromkeys(values.tolist()))) > 1:
            told = [_word(telemetry, index) for index in seen]
            yield f"the governor of {name} changed from {told[0]} to {told[1]}"
    zones = run.window.before.get("thermal") or {}
    for name, values in _answered(telemetry, "temperature_mc"):
        limits = [value for trip, value in zones.get(name, {}).items() if trip != "now_c"]
        if limits and int(values.max()) >= 1000 * min(limits):
            yield f"{name} reached {values.max() / 1000:g} °C, and its lowest trip point is {min(limits):g} °C"


def _stood_still(telemetry: Telemetry) -> Iterator[str]:
    passed_ms = int(telemetry.values[-1, 0] - telemetry.values[0, 0]) / 1e6
    if passed_ms < _FROZEN_MS:
        return
    for name in ("all_ms", "own_cpu_ns"):
        values = telemetry.column(name)
        if values is not None and SILENT not in (values[0], values[-1]) and values[-1] == values[0]:
            yield f"{name} stood still for {passed_ms:.0f} ms, while the board computed"
    for name, values in _answered(telemetry, "energy_uj"):
        if passed_ms > 5 * _FROZEN_MS and values[-1] == values[0]:
            yield f"the energy counter {name} stood still for {passed_ms:.0f} ms, while the board computed"


def _frozen_over(runs: Sequence[Run]) -> Iterator[str]:
    """Heat and power that never change, in no reading of any run: what is told is not what is there."""
    found: dict[str, set[int]] = {}
    times = [int(time) for run in runs for time in run.telemetry.values[:, 0]]
    if len(times) < _FROZEN_READINGS or max(times) - min(times) < _FROZEN_NS:
        return
    for run in runs:
        for kind in ("temperature_mc", "power_uw"):
            for name, values in _answered(run.telemetry, kind):
                found.setdefault(f"{kind}/{name}", set()).update(values.tolist())
    # One zone alone may be a dummy, as firmware of PCs has them; a rail of nothing may stand at nothing.
    told = {name: values for name, values in found.items() if values != {0}}
    if len(told) > 1 and all(len(values) == 1 for values in told.values()):
        yield f"all {len(told)} sensors of heat and power are frozen: one value each in {len(times)} readings"
    for name, seen in told.items():
        if len(seen) == 1 and len(told) > 1 and name.rpartition(":")[2].upper() in _TOTAL:
            yield f"the rail {name} gave the same value in {len(times)} readings: it is frozen"


def _impossible(run: Run) -> Iterator[str]:
    telemetry = run.telemetry
    for name, values in _answered(telemetry, "temperature_mc"):
        for value in (int(values.min()), int(values.max())):
            if not _DEGREES_MC[0] <= value <= _DEGREES_MC[1]:
                yield f"{name} told {value / 1000:g} °C, which cannot be"
    clocks = run.window.before.get("clocks_khz") or {}
    for name, values in _answered(telemetry, "clock_khz"):
        most = clocks.get(name, {}).get("most")
        if int(values.min()) <= 0 or (most and int(values.max()) > _TURBO * most):
            wrong = int(values.min()) if int(values.min()) <= 0 else int(values.max())
            yield f"the clock of {name} was told as {wrong:,} kHz, which cannot be"
    for name, values in _answered(telemetry, "power_uw"):
        if int(np.abs(values).max()) > _MOST_UW:
            yield f"the rail {name} told {max(values.tolist(), key=abs) / 1e6:,.0f} W, which cannot be"
    for name in ("all_ms", "own_cpu_ns", "own_wait_ns"):
        told = telemetry.column(name)
        if told is not None and not (told == SILENT).any() and int(np.diff(told).min()) < -1000:
            yield f"{name} ran backwards, which cannot be"


def _unlocked(run: Run) -> Iterator[str]:
    """Say why clocks are not locked, as the target demands: they are not fixed, or they moved, or nobody can tell."""
    before = run.window.before
    clocks: Mapping[str, Mapping[str, int]] = before.get("clocks_khz") or {}
    ranges: Mapping[str, Mapping[str, int]] = before.get("gpu_ranges_hz") or {}
    if not clocks and not ranges:
        yield "the target demands locked clocks, and no clock of this board can be read"
    governors = {name.partition("/")[0]: text for name, text in (before.get("governors") or {}).items()}
    for name, found in (*clocks.items(), *((name, found) for name, found in ranges.items() if _is_gpu(name))):
        least, allowed = found.get("least"), found.get("allowed")
        if allowed is None or (least != allowed and governors.get(name) != "performance"):
            told = f"{least} to {allowed}" if allowed is not None else "not readable"
            told += f"; governor {governors[name]}" if name in governors else ""
            yield f"the target demands locked clocks, and that of {name} is free ({told})"
    for kind, limits in (("clock_khz", clocks), ("gpu_hz", ranges)):
        for name, values in _answered(run.telemetry, kind):
            allowed = limits.get(name, {}).get("allowed")
            if allowed and (kind == "clock_khz" or _is_gpu(name)) and int(values.min()) < (1 - _PIN) * allowed:
                yield f"the target demands locked clocks, and {name} fell to {values.min()} of {allowed}"


def _is_gpu(name: str) -> bool:
    # Other devices with clocks of their own (video, cameras, flash) may do as they like.
    return any(word in name.lower() for word in ("gpu", "gv11b", "ga10b", "gb10b", "17000000", "mali"))


def _answered(telemetry: Telemetry, kind: str) -> Iterator[tuple[str, Nanoseconds]]:
    for name, values in telemetry.of(kind):
        if len(known := values[values != SILENT]):
            yield name, known


def _word(telemetry: Telemetry, index: int) -> str:
    return telemetry.words[index] if 0 <= index < len(telemetry.words) else f"number {index}"


def disturbance(run: Run) -> str | None:
    """Say what else the board did while ``run`` was timed; None where it did nothing that could matter."""
    passed = _passed(run)
    if passed["monotonic_ns"] <= 0:
        return None
    seconds = passed["monotonic_ns"] * 1e-9
    processors = max(1, round(passed["all_ms"] / 1000 / seconds)) if passed["all_ms"] else 1
    waited = passed["own_wait_ns"] * 1e-9 / seconds
    stolen = passed["steal_ms"] / passed["all_ms"] if passed["all_ms"] else 0.0
    ours = (passed["own_cpu_ns"] + passed["agent_cpu_ns"]) * 1e-9
    # A tick of the processor's clock may go to the wrong account.
    others = max(0.0, (passed["busy_ms"] / 1000 - ours - 0.02) / seconds)
    ready = run.telemetry.column("ready")
    # Less one: the reader itself is ready whenever it reads.
    queue = 0.0 if ready is None else float(np.median(ready)) - 1
    if waited > _WAITED:
        return f"the timed process waited for a processor {waited:.0%} of its time"
    if stolen > _STOLEN:
        return f"{stolen:.0%} of the processors' time was stolen by other machines"
    if others > _OTHERS:
        return f"other processes kept {others:.2g} of {processors} processors busy"
    if queue > _QUEUE * processors:
        return f"{queue:g} threads were ready to run on {processors} processors"
    return None


def _passed(run: Run) -> dict[str, int]:
    """Return by how much the counters rose from the reading before the window to the one after it."""
    values, window = run.telemetry.values, run.window
    times = values[:, 0]
    first = max(0, int(np.searchsorted(times, window.began_ns, "right")) - 1)
    last = min(len(times) - 1, int(np.searchsorted(times, window.began_ns + window.duration_ns, "left")))
    rises = {}
    for name in ("monotonic_ns", "busy_ms", "steal_ms", "all_ms", "own_cpu_ns", "own_wait_ns", "agent_cpu_ns"):
        column = run.telemetry.column(name)
        known = column is not None and SILENT not in (column[first], column[last])
        rises[name] = max(0, int(column[last] - column[first])) if known and column is not None else 0
    return rises


@dataclass(frozen=True)
class Energy:
    """What one image costs, run by run, or why that is not known."""

    millijoules: tuple[float, ...] = ()
    rails: tuple[str, ...] = ()
    reason: str = ""


_NO_RAIL = "no power rail of this board can be read (hwmon, INA3221, RAPL)"


def energy_of(runs: Sequence[Run], batch: int) -> Energy:
    """Return the energy of an image in each run: of the whole board while it is timed, what it uses idle included."""
    found = [_joules(run) for run in runs]
    reasons = [reason for reason, _, _ in found if reason]
    if not found or reasons:
        return Energy(reason=reasons[0] if reasons else _NO_RAIL)
    images = [batch * len(run.window.samples_ns) for run in runs]
    each = tuple(1000 * joules / count for (_, joules, _), count in zip(found, images, strict=True))
    return Energy(each, found[0][2])


def _joules(run: Run) -> tuple[str, float, tuple[str, ...]]:
    """Return why there is no energy of a window, else the joules and the rails they are of."""
    window, times = run.window, run.telemetry.values[:, 0]
    ends = window.began_ns + window.duration_ns
    inside = slice(
        max(0, int(np.searchsorted(times, window.began_ns, "right")) - 1), int(np.searchsorted(times, ends, "left")) + 1
    )
    seconds = window.duration_ns * 1e-9
    counters = dict(run.telemetry.of("energy_uj"))
    rails = counters or _rails(dict(run.telemetry.of("power_uw")))
    if not rails:
        return _NO_RAIL, 0.0, ()
    names, at = tuple(sorted(rails)), times[inside] * 1e-9
    if any((values[inside] == SILENT).any() for values in rails.values()):
        silent = "its counter may be read by root alone" if counters else "it gave no answer"
        return f"{', '.join(names)} could not be read while the engine was timed: {silent}", 0.0, ()
    watts = 0.0
    for values in rails.values():
        taken = values[inside] * 1e-6
        span = float(at[-1] - at[0])
        watts += float(taken[-1] - taken[0]) / span if counters else float(np.trapezoid(taken, at)) / span
    if watts <= 0:
        return f"{', '.join(names)} told {watts:.3g} W, which is no energy", 0.0, ()
    return "", watts * seconds, names


def _rails(rails: Mapping[str, Nanoseconds]) -> dict[str, Nanoseconds]:
    """Return the rail that feeds all others where there is one, else all of them."""
    whole = {name: values for name, values in rails.items() if name.rpartition(":")[2].upper() in _TOTAL}
    return whole or dict(rails)
