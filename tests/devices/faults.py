"""A scripted board: a real agent, whose sensors lie in a folder that a script writes while a run is timed.

Run as ``python faults.py CONTROL agent.pyz``; a link's `python`. The file CONTROL names the fault of the next run.
What is timed is real, and so is the signal that stops it; heat, clocks, counters and load are the script's.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

CPUS = "sys/devices/system/cpu"
KHZ = 2_201_600
FROM, TO = 2, 4
"""Readings between which a fault is there: what looks before and after alone sees nothing of most."""
START = {
    "proc/sys/kernel/random/boot_id": "11111111-2222",
    "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit",
    "proc/cpuinfo": "model name\t: ARMv8 Processor rev 1 (v8l)",
    "proc/loadavg": "0.42 0.30 0.20 1/345 6789",
    **{
        f"{CPUS}/cpu{cpu}/cpufreq/{name}": value
        for cpu in (0, 1)
        for name, value in {
            "scaling_cur_freq": str(KHZ),
            "scaling_min_freq": str(KHZ),
            "scaling_max_freq": str(KHZ),
            "cpuinfo_max_freq": str(KHZ),
            "scaling_governor": "schedutil",
        }.items()
    },
    f"{CPUS}/cpu0/thermal_throttle/core_throttle_count": "4",
    "sys/class/devfreq/17000000.gpu/cur_freq": "1300500000",
    "sys/class/devfreq/17000000.gpu/min_freq": "1300500000",
    "sys/class/devfreq/17000000.gpu/max_freq": "1300500000",
    "sys/class/thermal/thermal_zone0/type": "CPU-therm",
    "sys/class/thermal/thermal_zone0/trip_point_0_type": "passive",
    "sys/class/thermal/thermal_zone0/trip_point_0_temp": "99000",
    "sys/class/thermal/thermal_zone1/type": "CV0-therm",
    "sys/class/thermal/thermal_zone1/temp": "-256000",
    "sys/class/thermal/cooling_device0/type": "pwm-fan",
    "sys/class/thermal/cooling_device0/cur_state": "2",
    "sys/class/thermal/cooling_device1/type": "CPU-throttle",
    "sys/class/thermal/cooling_device1/cur_state": "0",
    "sys/class/hwmon/hwmon2/oc1_event_cnt": "7",
    "sys/class/hwmon/hwmon3/in1_label": "VDD_IN",
    "sys/class/hwmon/hwmon3/in1_input": "5000",
}
ZONE = "sys/class/thermal/thermal_zone0/temp"
RAIL = "sys/class/hwmon/hwmon3/curr1_input"


class Script:
    """Writes the board's files before each reading."""

    def __init__(self, root):
        self.root = root
        self.began = time.monotonic()
        self.held = {"busy": 0.0, "steal": 0.0}
        self.readings = 0

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def fresh(self):
        """Put the board as it is at the start of a run."""
        shutil.rmtree(self.root / "sys", ignore_errors=True)
        for name, text in START.items():
            self.write(name, text)
        self.readings = 0
        self.warm(None)

    def warm(self, watch):
        """What moves on an honest board: heat and current a little, counters of time as it passes."""
        step = self.readings
        self.write(ZONE, 48_500 + 100 * (step % 5))
        self.write(RAIL, 1_000 + 8 * (step % 7))
        self.load()

    def load(self, cores=1.0, stolen=0.0, ready=2):
        passed = time.monotonic() - self.began
        jiffies = int(100 * passed * cores), int(100 * passed * stolen)
        idle = max(0, int(200 * passed) - sum(jiffies))
        self.write("proc/stat", f"cpu  {jiffies[0]} 0 0 {idle} 0 0 0 {jiffies[1]} 0 0\nprocs_running {ready}")

    def process(self, pid, waited=0.0):
        passed = int((time.monotonic() - self.began) * 1e9)
        self.write(f"proc/{pid}/task/{pid}/schedstat", f"{int(passed * (1 - waited))} {int(passed * waited)} 9")
        self.write("proc/self/task/1/schedstat", f"{passed // 100} 0 9")


def at(change, undo=None):
    """Apply ``change`` at the reading `FROM` and ``undo`` at the reading `TO`."""

    def act(script, watch, pid):
        if script.readings == FROM:
            change(script, watch, pid)
        if script.readings == TO and undo is not None:
            undo(script, watch, pid)

    return act


def put(name, text):
    return lambda script, watch, pid: script.write(name, text)


def for_a_while(name, text):
    return at(put(name, text), put(name, START.get(name, "")))


def always(change):
    return lambda script, watch, pid: change(script)


def step(column, nanoseconds):
    """Let one of the clocks run ahead from a reading on."""

    def change(script, watch, pid):
        clocks = list(watch._clocks)
        honest = clocks[column]
        clocks[column] = lambda: honest() + nanoseconds
        watch._clocks = clocks

    return at(change)


def remove(name):
    def act(script, watch, pid):
        if script.readings >= FROM:
            shutil.rmtree(script.root / name, ignore_errors=True)

    return act


def silent(script, watch, pid):
    if script.readings >= FROM:
        (script.root / ZONE).unlink()


def hot(degrees):
    return lambda script, watch, pid: script.write(ZONE, degrees) if FROM <= script.readings < TO else None


def rail(milliamperes):
    return lambda script, watch, pid: script.write(RAIL, milliamperes) if FROM <= script.readings < TO else None


CLOCK, MOST = f"{CPUS}/cpu1/cpufreq/scaling_cur_freq", f"{CPUS}/cpu1/cpufreq/scaling_max_freq"
DOUBTS = {
    "throttled": (
        for_a_while(f"{CPUS}/cpu0/thermal_throttle/core_throttle_count", 6),
        "thermal throttling was counted 2 times by cpu0/thermal_throttle/core_throttle_count",
    ),
    "over-current": (at(put("sys/class/hwmon/hwmon2/oc1_event_cnt", 8)), "over-current throttling was counted 1 times"),
    "slowed down": (for_a_while("sys/class/thermal/cooling_device1/cur_state", 3), "CPU-throttle is in state 3"),
    "too hot": (hot(99_500), "CPU-therm reached 99.5 °C, and its lowest trip point is 99 °C"),
    "clock capped": (for_a_while(MOST, 1_100_000), "the highest clock allowed on cpu1 fell from 2201600 to 1100000"),
    "governor changed": (
        for_a_while(f"{CPUS}/cpu1/cpufreq/scaling_governor", "powersave"),
        "the governor of cpu1 changed from schedutil to powersave",
    ),
    "wall clock set": (step(3, -2_000_000_000), "the board's wall clock was set by -2 s"),
    "monotonic clock jumped": (step(1, 300_000_000), "monotonic clock jumped by 0.3 s against the processor's own"),
    "suspended": (step(2, 5_000_000_000), "the board was suspended for 5 s"),
    "process paused": (
        at(
            lambda script, watch, pid: os.kill(pid, signal.SIGSTOP),
            lambda script, watch, pid: os.kill(pid, signal.SIGCONT),
        ),
        "the timed process was stopped by a signal",
    ),
    "agent paused": (at(lambda script, watch, pid: time.sleep(5.0)), "it was paused"),
    "rebooted": (at(put("proc/sys/kernel/random/boot_id", "99999999")), "the board was rebooted in between"),
    "sensor silent": (silent, "temperature_mc/thermal_zone0:CPU-therm answered at first and fell silent"),
    "processor gone": (remove(f"{CPUS}/cpu1/cpufreq"), "clock_khz/cpu1 answered at first and fell silent"),
    "counters frozen": (
        always(lambda script: script.write("proc/stat", "cpu  9 0 0 9 0 0 0 0 0 0\nprocs_running 2")),
        "all_ms stood still for",
    ),
    "impossible heat": (hot(500_000), "CPU-therm told 500 °C, which cannot be"),
    "impossible clock": (for_a_while(CLOCK, 9_000_000), "the clock of cpu1 was told as 9,000,000 kHz"),
    "clock of nothing": (for_a_while(CLOCK, 0), "the clock of cpu1 was told as 0 kHz"),
    "impossible power": (rail(9 * 10**9), "the rail hwmon3:VDD_IN told"),
}
"""What discards all timings: the fault, and words of the reason."""
UNLOCKED = {
    "clocks free": (
        lambda script, watch, pid: script.write(f"{CPUS}/cpu0/cpufreq/scaling_min_freq", 729_600),
        "that of cpu0 is free (729600 to 2201600; governor schedutil)",
    ),
    "clock moved": (for_a_while(CLOCK, 1_500_000), "cpu1 fell to 1500000 of 2201600"),
    "gpu moved": (for_a_while("sys/class/devfreq/17000000.gpu/cur_freq", 306_000_000), "17000000.gpu fell to"),
    "clocks unreadable": (
        always(lambda script: [shutil.rmtree(script.root / part, True) for part in (CPUS, "sys/class/devfreq")]),
        "no clock of this board can be read",
    ),
}
"""The same where the target demands locked clocks, and there alone."""
DISTURBANCES = {
    "stolen time": (always(lambda script: script.load(1.0, stolen=0.3)), "was stolen by other machines"),
    "competing load": (always(lambda script: script.load(1.8)), "other processes kept"),
    "run queue": (always(lambda script: script.load(1.0, ready=9)), "8 threads were ready to run on 2 processors"),
    "waiting": (
        lambda script, watch, pid: script.process(pid, waited=0.4),
        r"waited for a processor (3[5-9]|4[0-5])% of its time",
    ),
}
"""What only adds time."""
CLEAN = "clean"
FAULTS = {**DOUBTS, **UNLOCKED, **DISTURBANCES, CLEAN: (lambda script, watch, pid: None, "")}


def main(control, agent):
    """Serve as the agent does, with the script's folder as its root."""
    sys.path.insert(0, agent)
    from robustdeploy.onboard import __main__ as real
    from robustdeploy.onboard import service, session, telemetry

    script = Script(Path(tempfile.mkdtemp()))
    script.fresh()
    act = [FAULTS[CLEAN][0]]

    class Scripted(telemetry.Watch):
        def __init__(self, root, pid):
            script.process(pid)
            super().__init__(root, pid)
            self.pid = pid
            self.every_s = 0.02

        def take(self):
            script.warm(self)
            script.process(self.pid)
            act[0](script, self, self.pid)
            super().take()
            script.readings += 1

    honest = service.Service._run

    def run(self, request):
        act[0] = FAULTS[Path(control).read_text()][0]
        script.fresh()
        if act[0] in [fault for name, (fault, _) in UNLOCKED.items() if name.startswith("clocks")]:
            act[0](script, None, 0)  # such a board was like that before
        return honest(self, request)

    service.Watch, service.Service._run = Scripted, run
    session.Service = partial(service.Service, root=script.root)
    try:
        return real.main(sys.argv[3:])
    finally:
        shutil.rmtree(script.root, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
