"""Faults of a measurement, by a scripted board: each makes rules on time INCONCLUSIVE, and a clean run is judged."""

import re
import sys
from pathlib import Path

import pytest
from faults import CLEAN, DISTURBANCES, DOUBTS, UNLOCKED

from robustdeploy.core.gate import Outcome, Rule
from robustdeploy.core.load import load_target
from robustdeploy.core.subject import subject_from
from robustdeploy.devices.board import board_from
from robustdeploy.devices.local import Local
from robustdeploy.evaluate.latency import Latency
from robustdeploy.evaluate.latency_rows import latency_diagnostic, latency_diagnostics, measured_latency
from robustdeploy.report.judge import judge

SUBJECT = subject_from("pruned/fp32@host-cpu")
PLAN = {"batch": 1, "warmup_s": 0.01, "min_s": 0.3, "max_s": 3, "min_samples": 700}
OBSERVE = load_target("host-cpu")
LOCKED = OBSERVE.model_copy(update={"clocks": "locked"})


@pytest.fixture(scope="module")
def run(agent, net, images, tmp_path_factory):
    """Time a run on the scripted board while it has the fault of this name."""
    folder = tmp_path_factory.mktemp("faults")
    python, control = folder / "python", folder / "control"
    script = Path(__file__).with_name("faults.py")
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -E "{script}" "{control}" "$@"\n')
    python.chmod(0o755)
    control.write_text(CLEAN)
    with board_from(Local(python=str(python)), agent, 30) as board:
        assert board.facts["board_model"] == "NVIDIA Jetson AGX Orin Developer Kit"
        files = board.compile("null", board.put(net)).files

        def timed(fault):
            control.write_text(fault)
            return board.run("null", files, {}, PLAN, images)

        yield timed


@pytest.fixture(scope="module")
def clean(run):
    return [run(CLEAN) for _ in range(2)]


def judged(runs, limit=1000.0, target=OBSERVE, metric="latency_ms.p50"):
    latency = Latency({"single-stream": tuple(runs)}, target)
    told = [latency_diagnostic(latency).model_copy(update={"subject": str(SUBJECT)})]
    rows = measured_latency(latency, SUBJECT)
    verdict = judge(rows, told, [Rule(id="RD-LAT-01", metric=metric, at_most=limit)], subjects=())
    return verdict.outcome, told[0].text


@pytest.mark.parametrize("target", [OBSERVE, LOCKED])
def test_a_clean_board_is_judged_and_its_energy_told(clean, target):
    assert judged(clean, target=target)[0] is Outcome.PASS
    latency = Latency({"single-stream": tuple(clean)}, target)
    assert latency.flaws == []
    row = next(row for row in measured_latency(latency, SUBJECT) if row.metric == "energy_mj")
    assert row.conditions["rails"] == "hwmon3:VDD_IN"
    assert row.value > 0
    assert next(each for each in latency_diagnostics(latency) if each.id == "energy").text.startswith("energy was read")


@pytest.mark.parametrize("fault", DOUBTS)
def test_a_fault_makes_rules_on_time_inconclusive(run, clean, fault):
    outcome, text = judged([clean[0], run(fault), clean[1]])
    assert outcome is Outcome.INCONCLUSIVE
    assert text.startswith("latency was discarded: ")
    assert DOUBTS[fault][1] in text


@pytest.mark.parametrize("fault", UNLOCKED)
def test_clocks_that_are_not_locked_are_a_fault_where_the_target_demands_it(run, clean, fault):
    faulty = run(fault)
    outcome, text = judged([faulty, faulty], target=LOCKED)
    assert outcome is Outcome.INCONCLUSIVE
    assert UNLOCKED[fault][1] in text
    assert judged([faulty, faulty])[0] is Outcome.PASS


@pytest.mark.parametrize("fault", DISTURBANCES)
def test_a_busy_board_decides_only_what_its_noise_cannot(run, fault):
    """A limit that even the disturbed run meets is met; between the quickest call and that run nobody knows."""
    disturbed = run(fault)
    slowest, quickest = disturbed.window.samples_ns.max() * 1e-6, disturbed.window.samples_ns.min() * 1e-6
    assert judged([disturbed], 1.01 * slowest)[0] is Outcome.PASS
    assert judged([disturbed], 0.5 * quickest)[0] is Outcome.FAIL
    outcome, text = judged([disturbed], 1.01 * quickest, metric="latency_ms.p99")
    assert outcome is Outcome.INCONCLUSIVE
    # What a busy machine adds to the scripted share moves its last digit.
    assert re.search(DISTURBANCES[fault][1], text)


def test_runs_on_this_machine_are_not_refused(agent, net, images):
    with board_from(Local(), agent, 30) as board:
        files = board.compile("null", board.put(net)).files
        runs = [board.run("null", files, {}, {**PLAN, "min_s": 0.1}, images) for _ in range(3)]
    assert Latency({"single-stream": tuple(runs)}, OBSERVE).flaws == []
