"""Readings judged that no board of ours gives: frozen sensors over all runs, and boards that tell little."""

import numpy as np
import pytest

from robustdeploy.devices.run import Run, Telemetry
from robustdeploy.devices.window import Window
from robustdeploy.evaluate.telemetry import disturbance, doubts
from robustdeploy.onboard.telemetry import CLOCKS, LOAD

S = 10**9


def run_at(second, before=None, **columns):
    """A run of a second whose channels have these values; clocks agree."""
    channels = (*CLOCKS, *(name.replace("__", "/").replace("_at_", ":") for name in columns))
    times = second * S + np.linspace(0, 1, 9) * S
    values = np.zeros((9, len(channels)), np.int64)
    values[:, : len(CLOCKS)] = times[:, None].astype(np.int64)
    for index, column in enumerate(columns.values(), len(CLOCKS)):
        values[:, index] = column
    sensors = {"boot_id": "b", **(before or {})}
    samples = np.full(1000, 10**6)
    ones = np.ones((1, 2))
    window = Window(samples, samples, samples, 1, S - 2, sensors, sensors, ones, ones, began_ns=second * S + 1)
    return Run(window, Telemetry(channels, values))


MOVING = 48_000 + 100 * np.arange(9)


def test_heat_and_power_that_never_change_are_frozen():
    still = [run_at(20 * k, temperature_mc__a=48_000, temperature_mc__b=41_000) for k in range(3)]
    assert "all 2 sensors of heat and power are frozen: one value each in 27 readings" in doubts(still, False)
    moving = [run_at(20 * k, temperature_mc__a=48_000, temperature_mc__b=MOVING + k) for k in range(3)]
    assert doubts(moving, False) == []


def test_the_dummy_zone_of_a_pc_and_a_short_look_are_no_fault():
    assert doubts([run_at(20 * k, temperature_mc__acpitz=27_800) for k in range(3)], False) == []
    assert doubts([run_at(2 * k, temperature_mc__a=48_000, temperature_mc__b=41_000) for k in range(3)], False) == []


def test_a_rail_of_all_that_stands_still_while_heat_moves_is_frozen():
    runs = [run_at(20 * k, temperature_mc__b=MOVING, power_uw__hwmon3_at_VDD_IN=5_000_000) for k in range(3)]
    assert any("the rail power_uw/hwmon3:VDD_IN gave the same value" in reason for reason in doubts(runs, False))
    idle = [run_at(20 * k, temperature_mc__b=MOVING, power_uw__hwmon3_at_VDD_CV=40_000) for k in range(3)]
    assert doubts(idle, False) == []


def test_an_energy_counter_that_stands_still_is_frozen():
    runs = [run_at(0, **{"energy_uj__intel-rapl_at_0": 77})]
    assert doubts(runs, False) == []
    longer = run_at(0, **{"energy_uj__intel-rapl_at_0": 77})
    longer.telemetry.values[:, : len(CLOCKS)] *= 3
    assert any("energy counter" in reason for reason in doubts([longer], False))


@pytest.mark.parametrize("changed", [{"boot_id": "c"}, {"governors": {"cpu0": "powersave"}}])
def test_a_board_that_changes_between_two_runs_is_another(changed):
    before = {"governors": {"cpu0": "performance"}}
    assert doubts([run_at(0, before), run_at(20, before)], False) == []
    assert doubts([run_at(0, before), run_at(20, {**before, **changed})], False)


def test_a_board_may_cool_or_throttle_between_two_runs():
    hot = {"throttle_counts": {"core": 3}, "thermal": {"z": {"now_c": 70.0, "passive_c": 99.0}}}
    assert doubts([run_at(0, hot), run_at(20, {**hot, "throttle_counts": {"core": 9}})], False) == []


def test_a_sensor_that_is_gone_in_the_next_run_fell_silent():
    runs = [run_at(0, temperature_mc__a=MOVING), run_at(20)]
    assert doubts(runs, False) == ["the sensor temperature_mc/a answered in one run and was gone in the next"]


def test_a_board_that_tells_nothing_of_its_load_is_taken_as_quiet():
    assert disturbance(run_at(0)) is None
    assert disturbance(run_at(0, **dict.fromkeys(LOAD, 0))) is None


def test_clocks_that_nobody_can_read_are_not_locked():
    assert doubts([run_at(0)], True) == ["the target demands locked clocks, and no clock of this board can be read"]


def test_the_performance_governor_locks_a_clock_that_stays_at_its_highest():
    before = {
        "clocks_khz": {"cpu0": {"current": 2000, "least": 800, "allowed": 2000, "most": 2000}},
        "governors": {"cpu0/cpufreq/scaling_governor": "performance"},
    }
    assert doubts([run_at(0, before, clock_khz__cpu0=2000)], True) == []
    (reason,) = doubts([run_at(0, before, clock_khz__cpu0=[2000] * 8 + [1900])], True)
    assert "cpu0 fell to 1900 of 2000" in reason
