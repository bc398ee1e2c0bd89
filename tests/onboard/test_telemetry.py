import os
import time
from pathlib import Path

import pytest

from robustdeploy.onboard.telemetry import CLOCKS, LOAD, MOST_READINGS, SILENT, Watch, load_of, scheduled

BOARD = {
    "sys/class/hwmon/hwmon3/in1_label": "VDD_IN",
    "sys/class/hwmon/hwmon3/in1_input": "5000",
    "sys/class/hwmon/hwmon3/curr1_input": "1200",
    "sys/class/hwmon/hwmon3/curr2_input": "900",
    "sys/class/hwmon/hwmon4/power1_input": "7500000",
    "sys/class/hwmon/hwmon4/power1_label": "SoC",
    "sys/class/powercap/intel-rapl:0/name": "package-0",
    "sys/class/powercap/intel-rapl:0/energy_uj": "123456789",
    "sys/class/powercap/intel-rapl:0:0/name": "core",
    "sys/class/powercap/intel-rapl:0:0/energy_uj": "23456789",
    "sys/class/thermal/thermal_zone0/type": "cpu",
    "sys/class/thermal/thermal_zone0/temp": "48500",
    "sys/class/thermal/thermal_zone1/type": "off",
    "sys/class/thermal/thermal_zone1/temp": "-256000",
    "sys/class/thermal/cooling_device0/type": "pwm-fan",
    "sys/class/thermal/cooling_device0/cur_state": "2",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2201600",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "2201600",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil",
    "proc/stat": "cpu  100 2 30 400 5 6 7 8 0 0\ncpu0 1 1 1\nintr 99\nprocs_running 3",
    "proc/77/task/77/schedstat": "1000 200 3",
    "proc/77/task/78/schedstat": "10 20 3",
}


@pytest.fixture
def board(tmp_path):
    for name, text in BOARD.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return tmp_path


def read(watch):
    watch.take()
    return dict(zip(watch.channels, watch.readings[-1], strict=True))


def test_a_board_is_read_as_whole_numbers_by_channel(board):
    found = read(Watch(board, 77))
    assert found["power_uw/hwmon3:VDD_IN"] == 6_000_000  # 5 V times 1.2 A
    assert found["power_uw/hwmon4:SoC"] == 7_500_000
    assert not [name for name in found if "curr2" in name], "a current without its volts is no power"
    assert found["energy_uj/intel-rapl:0:package-0"] == 123_456_789
    assert not [name for name in found if "core" in name], "it is counted in the package already"
    assert found["temperature_mc/thermal_zone0:cpu"] == 48_500
    assert found["temperature_mc/thermal_zone1:off"] == SILENT
    assert not [name for name in found if "fan" in name]
    assert (found["busy_ms"], found["steal_ms"], found["all_ms"], found["ready"]) == (1450, 80, 5580, 3)
    assert (found["own_cpu_ns"], found["own_wait_ns"], found["own_stops"]) == (1010, 220, 0)


def test_words_are_numbers_of_a_list_and_what_is_gone_is_silent(board):
    watch = Watch(board, 77)
    governor = board / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    assert watch.words[read(watch)["governor/cpu0"]] == "schedutil"
    governor.write_text("powersave\n")
    assert watch.words[read(watch)["governor/cpu0"]] == "powersave"
    governor.unlink()
    assert read(watch)["governor/cpu0"] == SILENT


def test_a_board_that_tells_nothing_is_still_watched(tmp_path):
    found = read(Watch(tmp_path / "nowhere", 77))
    assert tuple(found) == (*CLOCKS, *LOAD)
    assert {name for name, value in found.items() if value != SILENT} == {*CLOCKS, "own_stops"}


def test_a_sandbox_without_a_real_kernel_tells_nothing_and_no_zeros():
    assert load_of("cpu  0 0 0 0 0 0 0 0 0 0\nprocs_running 0") == (None, None, None, None)
    assert load_of("garbage") == (None, None, None, None)


def test_a_long_window_keeps_readings_at_longer_intervals(tmp_path):
    watch = Watch(tmp_path, 77)
    for _ in range(MOST_READINGS + 10):
        watch.take()
    assert len(watch.readings) == MOST_READINGS // 2 + 10
    assert watch.every_s == 0.1


def test_this_process_is_seen_to_work():
    watch = Watch(Path("/"), os.getpid())
    before = read(watch)
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    after = read(watch)
    if scheduled(Path("/proc/self/task")) == (None, None):
        pytest.skip("this kernel does not tell what a thread used (CONFIG_SCHED_INFO)")
    assert after["own_cpu_ns"] - before["own_cpu_ns"] >= 40_000_000
