import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustdeploy.onboard.sensors import (
    cpu_model,
    l4t_release,
    load_average,
    number,
    read_equipment,
    read_sensors,
    throttled,
)

JETSON = {
    "proc/sys/kernel/random/boot_id": "11111111-2222-3333-4444-555555555555\n",
    "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\n",
    "proc/loadavg": "0.42 0.30 0.20 1/345 6789\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2201600\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "2201600\n",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "2201600\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "729600\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "4\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "1300500000\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "1300500000\n",
    "sys/class/thermal/thermal_zone1/type": "CV0-therm\n",
    "sys/class/thermal/thermal_zone1/temp": "-256000\n",
    "sys/class/thermal/thermal_zone0/type": "CPU-therm\n",
    "sys/class/thermal/thermal_zone0/temp": "48500\n",
    "sys/class/thermal/thermal_zone0/trip_point_0_type": "passive\n",
    "sys/class/thermal/thermal_zone0/trip_point_0_temp": "99000\n",
    "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device0/cur_state": "2\n",
    "sys/class/thermal/cooling_device1/type": "CPU-throttle\n",
    "sys/class/thermal/cooling_device1/cur_state": "0\n",
    "sys/class/hwmon/hwmon2/oc1_event_cnt": "7\n",
}


def tree(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def test_a_jetson_is_read_whole(tmp_path):
    facts = read_sensors(tree(tmp_path, JETSON))
    assert facts["boot_id"].startswith("11111111")
    assert facts["board_model"] == "NVIDIA Jetson AGX Orin Developer Kit"
    assert facts["cpu_model"] == "ARMv8 Processor rev 1 (v8l)"
    assert facts["load_1m"] == 0.42
    assert facts["clocks_khz"] == {"cpu0": {"current": 2201600, "least": 729600, "allowed": 2201600, "most": 2201600}}
    assert facts["governors"] == {"cpu0/cpufreq/scaling_governor": "performance"}
    assert facts["gpu_clocks_hz"] == {"17000000.gpu/cur_freq": 1300500000}
    assert facts["gpu_ranges_hz"] == {"17000000.gpu": {"least": 306000000, "allowed": 1300500000}}
    assert facts["thermal"] == {"thermal_zone0:CPU-therm": {"now_c": 48.5, "passive_c": 99.0}}
    assert facts["cooling"] == {"cooling_device1:CPU-throttle": 0}
    assert facts["throttle_counts"] == {"cpu0/thermal_throttle/core_throttle_count": 4}
    assert facts["overcurrent_counts"] == {"hwmon2/oc1_event_cnt": 7}
    assert throttled(facts, facts) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"proc/sys/kernel/random/boot_id": "9"}, "rebooted"),
        ({"sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "6"}, "counted 2 times"),
        ({"sys/class/hwmon/hwmon2/oc1_event_cnt": "8"}, "over-current throttling was counted 1 times"),
        ({"sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave"}, "from performance to powersave"),
        ({"sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1100000"}, "fell from 2201600 to 1100000"),
        ({"sys/class/thermal/cooling_device1/cur_state": "3"}, "in state 3"),
        ({"sys/class/thermal/thermal_zone0/temp": "99500"}, "99.5 °C, at or above its passive trip point"),
    ],
)
def test_each_sign_of_throttling_is_one_reason(tmp_path, change, words):
    before = read_sensors(tree(tmp_path / "before", JETSON))
    after = read_sensors(tree(tmp_path / "after", {**JETSON, **change}))
    assert [words in reason for reason in throttled(before, after)] == [True]


def test_a_machine_without_sensors_gives_no_entries_and_no_error(tmp_path):
    facts = read_sensors(tmp_path / "nowhere")
    assert facts["boot_id"] == facts["cpu_model"] == ""
    assert facts["load_1m"] is None
    assert facts["clocks_khz"] == facts["thermal"] == {}
    assert throttled(facts, facts) == []


def test_this_machine_can_be_read():
    assert json.loads(json.dumps(read_sensors(), allow_nan=False))["boot_id"]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.text(max_size=60))
def test_garbage_in_every_file_is_no_error(tmp_path_factory, data, text):
    root = tree(tmp_path_factory.mktemp("garbage"), dict.fromkeys(JETSON, data))
    facts = read_sensors(root)
    json.dumps(facts, allow_nan=False)
    throttled(facts, facts)
    assert isinstance(cpu_model(text), str)
    assert load_average(text) is None or load_average(text) >= 0
    assert number(text) is None or isinstance(number(text), int)


ANY = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
FACTS = st.dictionaries(st.sampled_from(sorted(read_sensors())), ANY, max_size=6)


@settings(max_examples=100, deadline=None)
@given(FACTS, FACTS)
def test_readings_of_any_form_are_judged_without_error(before, after):
    assert all(isinstance(reason, str) for reason in throttled(before, after))


def test_the_equipment_of_a_jetson_is_read(tmp_path):
    files = {
        "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
        "proc/meminfo": "MemTotal:       31365480 kB\nMemFree:  1 kB\nMemAvailable:   29000000 kB\n",
    }
    facts = read_equipment(tree(tmp_path, files), tmp_path)
    assert facts.pop("free_disk_bytes") > 0
    assert facts == {
        "os": "Ubuntu 22.04.5 LTS",
        "l4t": "36.4.3",
        "memory_bytes": 31365480 * 1024,
        "free_memory_bytes": 29000000 * 1024,
    }


@pytest.mark.parametrize("text", ["", "# R (release), REVISION: x", "\0\xff", "Jetson"])
def test_what_is_no_release_of_jetson_linux_is_none(text):
    assert l4t_release(text) == ""


def test_a_machine_that_tells_nothing_has_nothing(tmp_path):
    facts = read_equipment(tmp_path, tmp_path / "nowhere")
    assert facts == {"os": "", "l4t": "", "memory_bytes": 0, "free_memory_bytes": 0, "free_disk_bytes": 0}
