"""Read a board's clocks, temperatures and throttle counters from /proc and /sys; nothing is ever written.

Every reader is total: a file that is missing, unreadable or garbage gives no entry, never an error.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

# Files in /proc and /sys say a size of 0 or 4096, so reading is bounded by this and not by what they say.
_MOST_BYTES = 1 << 16
_MOST_FILES = 512
_TRIPS = ("passive", "hot", "critical")
OFF_MILLI_C = -200_000
"""A temperature of so little, in thousandths of a degree, is none."""

Facts = dict[str, Any]


def read_sensors(root: Path = Path("/")) -> Facts:
    """Return what this machine says of itself, as JSON values; ``root`` holds ``proc`` and ``sys``."""
    return {
        # Another boot id after a window tells that the board was restarted in between.
        "boot_id": _text(root / "proc/sys/kernel/random/boot_id")[:64],
        "cpu_model": cpu_model(_text(root / "proc/cpuinfo")) or _text(root / "proc/device-tree/model")[:200],
        "board_model": _text(root / "proc/device-tree/model")[:200],
        "load_1m": load_average(_text(root / "proc/loadavg")),
        "clocks_khz": _clocks(root / "sys/devices/system/cpu"),
        "governors": _texts(root / "sys/devices/system/cpu", "cpu[0-9]*/cpufreq/scaling_governor", 3),
        "gpu_clocks_hz": _numbers(root / "sys/class/devfreq", "*/cur_freq", 2),
        "gpu_ranges_hz": _ranges(root / "sys/class/devfreq"),
        "thermal": _zones(root / "sys/class/thermal"),
        "cooling": _cooling(root / "sys/class/thermal"),
        "throttle_counts": _numbers(root / "sys/devices/system/cpu", "cpu[0-9]*/thermal_throttle/*_throttle_count", 3),
        # Jetson boards throttle on current while every temperature looks fine; only these counters tell.
        "overcurrent_counts": _numbers(root / "sys/class/hwmon", "*/oc*_event_cnt", 2)
        | _numbers(root / "sys/bus/platform/drivers", "soctherm*/*/hwmon/*/oc*_event_cnt", 5),
    }


def read_equipment(root: Path, store: Path) -> Facts:
    """Return what this machine has: its system, NVIDIA's release where it is a Jetson, memory and room in ``store``.

    What cannot be read is empty or 0.
    """
    release = dict(line.partition("=")[::2] for line in _text(root / "etc/os-release").splitlines())
    try:
        free = shutil.disk_usage(store).free
    except OSError:
        free = 0
    return {
        "os": release.get("PRETTY_NAME", "").strip('"')[:200],
        # Such as "# R36 (release), REVISION: 4.3, GCID: …"; JetPack is told by it.
        "l4t": l4t_release(_text(root / "etc/nv_tegra_release")),
        "memory_bytes": _memory(_text(root / "proc/meminfo"), "MemTotal"),
        "free_memory_bytes": _memory(_text(root / "proc/meminfo"), "MemAvailable"),
        "free_disk_bytes": free,
    }


def l4t_release(text: str) -> str:
    """Return the version of Jetson Linux, such as ``36.4.3``, from the text of /etc/nv_tegra_release; empty without."""
    found = re.match(r"# R(\d{1,4}) \(release\), REVISION: (\d{1,4}(?:\.\d{1,4})*)", text)
    return f"{found[1]}.{found[2]}" if found else ""


def peak_memory(root: Path = Path("/")) -> int:
    """Return the most bytes that this process ever held in memory; 0 where the system does not tell."""
    # Not getrusage's, which is never below what the process that started this one held.
    return _memory(_text(root / "proc/self/status"), "VmHWM")


def _memory(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d{{1,15}}) kB$", text, re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def throttled(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return one sentence per sign that clocks were held down between two readings; none where there is no sign."""
    return [*_rebooted(before, after), *_counted(before, after), *_changed(before, after), *_hot(after)]


def cpu_model(text: str) -> str:
    """Return the processor's name from the text of /proc/cpuinfo; empty where it has none."""
    # x86 has the first. Arm kernels have one of the others, the more telling ones first.
    for wanted in ("model name", "Model", "Hardware", "CPU part"):
        for line in text.splitlines():
            name, colon, value = line.partition(":")
            if colon and name.strip() == wanted and value.strip():
                return value.strip()[:200]
    return ""


def load_average(text: str) -> float | None:
    """Return the load of the last minute from the text of /proc/loadavg."""
    try:
        load = float(text.split()[0])
    except (ValueError, IndexError):
        return None
    return load if math.isfinite(load) and load >= 0 else None


def number(text: str) -> int | None:
    """Return the integer that a sysfs file holds; None for anything else."""
    text = text.strip()
    digits = text[1:] if text.startswith("-") else text
    # `int` takes underscores and digits of other scripts as well; 18 digits always fit into int64.
    return int(text) if 0 < len(digits) <= 18 and digits.isascii() and digits.isdigit() else None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace").replace("\0", "").strip()
    except (OSError, ValueError):
        return ""


def _files(base: Path, pattern: str) -> list[Path]:
    try:
        return sorted(base.glob(pattern))[:_MOST_FILES]
    except (OSError, ValueError):
        return []


def _name(path: Path, parts: int) -> str:
    return "/".join(path.parts[-parts:])


def _texts(base: Path, pattern: str, parts: int) -> dict[str, str]:
    found = {_name(path, parts): _text(path)[:100] for path in _files(base, pattern)}
    return {name: text for name, text in found.items() if text}


def _numbers(base: Path, pattern: str, parts: int) -> dict[str, int]:
    found = {_name(path, parts): number(_text(path)) for path in _files(base, pattern)}
    return {name: value for name, value in found.items() if value is not None}


def _clocks(base: Path) -> dict[str, dict[str, int]]:
    """Per CPU: the current clock, the least and the most that are allowed now, and the most the silicon can do."""
    files = {
        "current": "scaling_cur_freq",
        "least": "scaling_min_freq",
        "allowed": "scaling_max_freq",
        "most": "cpuinfo_max_freq",
    }
    clocks = {}
    for folder in _files(base, "cpu[0-9]*/cpufreq"):
        read = {name: number(_text(folder / file)) for name, file in files.items()}
        clocks[folder.parent.name] = {name: value for name, value in read.items() if value is not None}
    return {name: values for name, values in clocks.items() if values}


def _ranges(base: Path) -> dict[str, dict[str, int]]:
    """Per GPU, or whatever else has a clock of its own: the least and the most that are allowed now."""
    ranges = {}
    for folder in _files(base, "*"):
        read = {name: number(_text(folder / file)) for name, file in (("least", "min_freq"), ("allowed", "max_freq"))}
        if found := {name: value for name, value in read.items() if value is not None}:
            ranges[folder.name] = found
    return ranges


def _zones(base: Path) -> dict[str, dict[str, float]]:
    """Per thermal zone: its temperature and its trip points, in °C."""
    zones = {}
    for folder in _files(base, "thermal_zone*"):
        # Tegra says −256 °C where what the zone measures is switched off.
        if (temperature := number(_text(folder / "temp"))) is None or temperature <= OFF_MILLI_C:
            continue
        values = {"now_c": temperature / 1000}
        for trip in _files(folder, "trip_point_*_type"):
            kind = _text(trip)
            # A limit of 0 or below is no trip point: every temperature would be above it.
            limit = number(_text(trip.with_name(trip.name.replace("_type", "_temp"))))
            if kind in _TRIPS and limit is not None and limit > 0:
                values[f"{kind}_c"] = min(limit / 1000, values.get(f"{kind}_c", math.inf))
        zones[f"{folder.name}:{_text(folder / 'type')[:60]}"] = values
    return zones


def _cooling(base: Path) -> dict[str, int]:
    """State of each cooling device that slows something down; fans do not."""
    states = {}
    for folder in _files(base, "cooling_device*"):
        kind, state = _text(folder / "type")[:60], number(_text(folder / "cur_state"))
        # A fan that turns slows nothing down.
        if state is not None and "fan" not in kind.lower():
            states[f"{folder.name}:{kind}"] = state
    return states


def _table(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """One table of a reading that may come from a board: anything else counts as empty."""
    # A reading may come from a board, which can answer anything.
    found = facts.get(name)
    return found if isinstance(found, Mapping) else {}


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _rebooted(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    one, two = before.get("boot_id"), after.get("boot_id")
    return ["the board was rebooted in between"] if one and two and one != two else []


def _counted(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    reasons = []
    for table, what in (("throttle_counts", "thermal throttling"), ("overcurrent_counts", "over-current throttling")):
        earlier = _table(before, table)
        for name, count in _table(after, table).items():
            start = earlier.get(name, 0)
            if _is_number(count) and _is_number(start) and count > start:
                reasons.append(f"{what} was counted {count - start} times by {name}")
    return reasons


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    reasons = []
    for name, governor in _table(after, "governors").items():
        earlier = _table(before, "governors").get(name)
        if earlier is not None and earlier != governor:
            reasons.append(f"the governor {name} changed from {earlier} to {governor}")
    for name in _table(after, "clocks_khz"):
        one, two = (_table(_table(facts, "clocks_khz"), name).get("allowed") for facts in (before, after))
        if _is_number(one) and _is_number(two) and two < one:
            reasons.append(f"the highest clock allowed on {name} fell from {one} to {two} kHz")
    return reasons


def _hot(after: Mapping[str, Any]) -> list[str]:
    reasons = []
    for name, state in _table(after, "cooling").items():
        if _is_number(state) and state > 0:
            reasons.append(f"the cooling device {name} is in state {state}: something is slowed down")
    for name, zone in _table(after, "thermal").items():
        values = zone if isinstance(zone, Mapping) else {}
        now = values.get("now_c")
        for trip in _TRIPS:
            limit = values.get(f"{trip}_c")
            if _is_number(now) and _is_number(limit) and now >= limit:
                reasons.append(f"{name} is at {now:g} °C, at or above its {trip} trip point of {limit:g} °C")
    return reasons
