"""Telemetry: clocks, heat, power and load of a board, read at intervals while another process is timed.

The reader is the agent and the timed process its child, so that no thread shares an interpreter with what is timed.
Nothing is judged here; a reading is a row of whole numbers, one for each channel.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .sensors import OFF_MILLI_C, number

SILENT = -(1 << 63)
"""What stands for a channel that gave no answer."""
EVERY_S = 0.05
COST = 200
"""Reading takes at most this part of the time, whatever a board's files cost."""
MOST_READINGS = 2048
MOST_CHANNELS = 400
CLOCKS = ("monotonic_ns", "raw_ns", "boot_ns", "wall_ns")
"""Channels that every reading begins with. The first is the clock of the samples."""
LOAD = (
    *("busy_ms", "steal_ms", "all_ms", "ready"),
    *("own_cpu_ns", "own_wait_ns", "agent_cpu_ns", "agent_wait_ns", "own_stops"),
)
"""Channels that follow: of all processors, of the timed process, and of this one, which reads."""
_ATTEMPTS, _AT_ONCE_NS = 5, 200_000
_JIFFY_MS = 10
_MOST_BYTES = 1 << 16
_MOST_TASKS = 256

Read = Callable[[], int | None]
Clocks = Sequence[Callable[[], int]]


def _clock(name: str) -> Callable[[], int]:
    # Systems other than Linux lack some of them; there, what these would show does not show.
    number = getattr(time, name, time.CLOCK_MONOTONIC)
    return lambda: time.clock_gettime_ns(number)


SYSTEM_CLOCKS: Clocks = tuple(
    _clock(name) for name in ("CLOCK_MONOTONIC", "CLOCK_MONOTONIC_RAW", "CLOCK_BOOTTIME", "CLOCK_REALTIME")
)


class Watch:
    """Reads all channels of a board while the process ``pid`` is timed; `take` adds a reading where one is due."""

    def __init__(self, root: Path, pid: int, clocks: Clocks = SYSTEM_CLOCKS) -> None:
        self.words: list[str] = []
        """Texts that channels of words hold the numbers of."""
        self.readings: list[list[int]] = []
        self.every_s = EVERY_S
        self._clocks = clocks
        self._stops = 0
        self._stat, self._tasks = root / "proc/stat", tuple(root / "proc" / its / "task" for its in (str(pid), "self"))
        room = MOST_CHANNELS - len(CLOCKS) - len(LOAD)
        self._sensors: list[tuple[str, Read]] = list(self._found(root))[:room]
        self._next = 0.0

    @property
    def channels(self) -> list[str]:
        """Names of the numbers of a reading, in their order."""
        return [*CLOCKS, *LOAD, *(name for name, _ in self._sensors)]

    def stopped(self) -> None:
        """Take note that the timed process was stopped or continued by a signal."""
        self._stops += 1

    def wait_s(self) -> float:
        """Return the time until the next reading is due."""
        return max(0.0, self._next - time.monotonic())

    def take(self) -> None:
        """Read all channels."""
        began = time.thread_time()
        clocks = self._together()
        own, agent = (scheduled(tasks) for tasks in self._tasks)
        load = [*load_of(_text(self._stat)), *own, *agent, self._stops]
        sensors = [read() for _, read in self._sensors]
        self.readings.append([SILENT if value is None else value for value in (*clocks, *load, *sensors)])
        if len(self.readings) >= MOST_READINGS:
            # A long window keeps readings from its beginning to its end, at longer intervals.
            self.readings = self.readings[::2]
            self.every_s *= 2
        cost_s = time.thread_time() - began
        self._next = time.monotonic() + max(self.every_s, COST * cost_s)

    def _together(self) -> list[int]:
        """Read all clocks at one moment, as far as a busy board allows that."""
        for _ in range(_ATTEMPTS):
            clocks = [clock() for clock in self._clocks]
            # Where this process had to wait in between, the clocks would seem to have jumped against each other.
            if self._clocks[0]() - clocks[0] < _AT_ONCE_NS:
                break
        return clocks

    def _found(self, root: Path) -> Iterator[tuple[str, Read]]:
        cpus, heat = root / "sys/devices/system/cpu", root / "sys/class/thermal"
        for folder in _found(cpus, "cpu[0-9]*/cpufreq"):
            name = folder.parent.name
            yield f"clock_khz/{name}", _number(folder / "scaling_cur_freq")
            yield f"allowed_khz/{name}", _number(folder / "scaling_max_freq")
            yield f"governor/{name}", self._word(folder / "scaling_governor")
        for path in _found(root / "sys/class/devfreq", "*/cur_freq"):
            yield f"gpu_hz/{path.parent.name}", _number(path)
        for folder in _found(heat, "thermal_zone*"):
            yield f"temperature_mc/{folder.name}:{_text(folder / 'type')[:60]}", _temperature(folder / "temp")
        for folder in _found(heat, "cooling_device*"):
            if "fan" not in (kind := _text(folder / "type")[:60]).lower():
                yield f"cooling/{folder.name}:{kind}", _number(folder / "cur_state")
        for path in _found(cpus, "cpu[0-9]*/thermal_throttle/*_throttle_count"):
            yield f"throttled/{'/'.join(path.parts[-3:])}", _number(path)
        hwmon, driver = root / "sys/class/hwmon", root / "sys/bus/platform/drivers"
        for path in (
            *_found(hwmon, "*/oc*_event_cnt"),
            *_found(driver, "soctherm*/*/hwmon/*/oc*_event_cnt"),
        ):
            yield f"overcurrent/{'/'.join(path.parts[-2:])}", _number(path)
        yield from _power(hwmon)
        # Only packages: what lies inside of one (intel-rapl:0:0) is counted there already.
        for folder in _found(root / "sys/class/powercap", "intel-rapl:[0-9]*"):
            if folder.name.count(":") == 1:
                yield f"energy_uj/{folder.name}:{_text(folder / 'name')[:60]}", _number(folder / "energy_uj")

    def _word(self, path: Path) -> Read:
        def read() -> int | None:
            if not (text := _text(path)[:100]):
                return None
            if text not in self.words:
                self.words.append(text)
            return self.words.index(text)

        return read


def _power(hwmon: Path) -> Iterator[tuple[str, Read]]:
    """Rails in microwatts: as they are, or as volts times amperes, which the INA3221 of Jetson boards gives."""
    for path in _found(hwmon, "*/power[0-9]*_input"):
        label = _text(path.with_name(path.name.replace("_input", "_label"))) or path.name.removesuffix("_input")
        yield f"power_uw/{path.parent.name}:{label[:60]}", _number(path)
    for path in _found(hwmon, "*/curr[0-9]*_input"):
        volts = path.with_name(path.name.replace("curr", "in"))
        label = _text(volts.with_name(volts.name.replace("_input", "_label")))
        # Rails of other chips have a name of the chip alone, and their volts may be of another rail.
        if label and _number(volts)() is not None:
            yield f"power_uw/{path.parent.name}:{label[:60]}", _product(volts, path)


def _product(volts: Path, amperes: Path) -> Read:
    def read() -> int | None:
        one, two = number(_text(volts)), number(_text(amperes))  # millivolts and milliamperes
        return None if one is None or two is None else one * two

    return read


def scheduled(tasks: Path) -> tuple[int | None, int | None]:
    """Return how long the threads in the folder ``tasks`` ran and how long they waited for a processor, in ns."""
    found = []
    try:
        # The file of the process itself tells of its first thread alone.
        names = os.listdir(tasks)[:_MOST_TASKS]  # noqa: PTH208 (names alone, and many times a second)
    except OSError:
        return None, None
    for name in names:
        fields = _text(tasks / name / "schedstat").split()
        if len(fields) >= 2 and (ran := number(fields[0])) is not None and (waited := number(fields[1])) is not None:
            found.append((ran, waited))
    return (sum(ran for ran, _ in found), sum(waited for _, waited in found)) if found else (None, None)


def load_of(stat: str) -> tuple[int | None, int | None, int | None, int | None]:
    """Return, from the text of /proc/stat, milliseconds of all processors: at work, stolen, in all; and who is ready.

    Stolen is what the machine below gave to others; ready are the threads that run or wait for a processor.
    """
    first, _, rest = stat.partition("\n")
    fields = [number(field) for field in first.split()[1:9]]
    known = [_JIFFY_MS * field for field in fields if field is not None]
    at = rest.find("procs_running ")
    ready = number(rest[at:].split(None, 2)[1]) if at >= 0 and len(rest[at:].split(None, 2)) > 1 else None
    # Sandboxes that are no real kernel tell zeros alone.
    if not first.startswith("cpu ") or len(known) < 8 or not sum(known):
        return None, None, None, ready or None
    user, nice, system, _, _, irq, soft, steal = known
    return user + nice + system + irq + soft, steal, sum(known), ready


def _temperature(path: Path) -> Read:
    def read() -> int | None:
        value = number(_text(path))
        return None if value is None or value <= OFF_MILLI_C else value

    return read


def _number(path: Path) -> Read:
    return lambda: number(_text(path))


def _text(path: Path) -> str:
    try:
        with path.open("rb", buffering=0) as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace").replace("\0", "").strip()
    except (OSError, ValueError):
        return ""


def _found(base: Path, pattern: str) -> list[Path]:
    try:
        return sorted(base.glob(pattern))
    except (OSError, ValueError):
        return []
