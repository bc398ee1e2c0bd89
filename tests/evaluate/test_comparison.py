"""Two sets of runs: equal nets do not alarm, a slower one is found, and noise alone tells nothing."""

import json

import numpy as np
import pytest

from robustdeploy.errors import ArtifactError
from robustdeploy.evaluate.comparison import Change, Runs, change, changes, runs_of, timed_runs


def synthetic(rng, factor=1.0, runs=10, calls=1000):
    """Runs as a quiet board gives them: autocorrelated calls, runs half a per cent apart, and seldom a spike."""
    for _ in range(runs):
        noise = np.empty(calls)
        noise[0], steps = rng.normal(), rng.normal(size=calls) * (1 - 0.9**2) ** 0.5
        for at in range(1, calls):
            noise[at] = 0.9 * noise[at - 1] + steps[at]
        times = 1e6 * factor * (1 + 0.03 * noise) * (1 + 0.005 * rng.normal())
        yield np.where(rng.random(calls) < 0.005, times * 3, times).astype(np.int64)


def test_equal_nets_do_not_alarm_and_a_slow_down_of_a_twentieth_is_found():
    rng = np.random.default_rng(0)
    alarms = found = 0
    for _ in range(60):
        before, after = (runs_of(list(synthetic(rng))) for _ in range(2))
        alarms += change(before, after).verdict != "alike"
        found += change(before, runs_of(list(synthetic(rng, 1.05)))).verdict == "slower"
    assert alarms <= 2
    assert found == 60


def test_the_change_is_told_with_its_interval_and_direction():
    before = Runs(tuple(1 + 0.001 * k for k in range(10)))
    slower = change(before, Runs(tuple(1.1 * each for each in before.quartiles_ms)))
    assert (slower.verdict, round(slower.ratio, 3)) == ("slower", 1.1)
    assert slower.low < 1.1 < slower.high
    assert change(Runs(tuple(1.1 * each for each in before.quartiles_ms)), before).verdict == "faster"
    assert "slower: 1.100 times" in slower.text


def test_a_change_that_matters_to_nobody_is_not_told_however_certain():
    before = Runs(tuple(1 + 0.0001 * k for k in range(10)))
    certain = change(before, Runs(tuple(1.01 * each for each in before.quartiles_ms)))
    assert certain.p < 0.01
    assert certain.verdict == "alike"
    assert "a change below 2% is not told" in certain.text


CROWD = (True,) * 10


def scaled(factor, disturbed=()):
    return Runs(tuple(factor * (1 + 0.001 * k) for k in range(10)), disturbed)


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (scaled(1.0), scaled(1.5, CROWD), None),  # the crowd may have done it
        (scaled(1.0, CROWD), scaled(1.5), "slower"),  # before it was 1.0 at most
        (scaled(1.5, CROWD), scaled(1.0), None),
        (scaled(1.5), scaled(1.0, CROWD), "faster"),  # now it is 1.0 at most
        (scaled(1.0, CROWD), scaled(9.0, CROWD), None),
        (scaled(1.0), scaled(1.5, (True,) * 4 + (False,) * 6), "slower"),
        (scaled(1.0), scaled(1.5, (True,) * 6 + (False,) * 4), None),
        (scaled(1.0, (True,) * 5 + (False,) * 5), scaled(1.0), "alike"),
    ],
)
def test_noise_only_adds_time_so_it_tells_no_change_that_it_explains(before, after, verdict):
    found = change(before, after)
    if verdict is None:
        assert "nobody can tell whether it changed: others disturbed" in found
    else:
        assert found.verdict == verdict


def test_too_few_runs_are_not_compared():
    few = Runs((1.0,) * 4)
    assert "4 and 10 runs are too few" in change(few, Runs((1.0,) * 10))


def record(**changed):
    run = {"samples_ns": [1000, 2000, 3000, 4000], "starts_ns": [0, 5, 9, 12], "period_ns": 0, "disturbance": None}
    return {"taken": True, "flaws": [], "scenarios": {"single-stream": [run] * 6}, **changed}


def test_runs_are_read_from_an_evaluation_and_responses_from_when_they_were_due(tmp_path):
    path = tmp_path / "timings.json"
    path.write_text(json.dumps(record()))
    held = timed_runs(path)
    assert held["single-stream"].disturbed == (False,) * 6
    assert held["single-stream"].quartiles_ms == pytest.approx((0.00175,) * 6)
    paced = {"samples_ns": [1000], "starts_ns": [500], "period_ns": 100, "disturbance": "others"}
    path.write_text(json.dumps(record(scenarios={"paced": [paced] * 5})))
    assert timed_runs(path)["paced"] == Runs((1500 * 1e-6,) * 5, disturbed=(True,) * 5)
    assert [name for name, _ in changes(held, held)] == ["single-stream"]
    assert isinstance(next(changes(held, held))[1], Change)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"taken": False, "reason": "the board is emulated"}, "emulated"),
        (record(flaws=["the board was rebooted in between"]), "discarded: the board was rebooted"),
        ({"taken": True, "flaws": [], "windows": []}, "older version"),
    ],
)
def test_runs_that_cannot_be_compared_say_why(tmp_path, written, words):
    (tmp_path / "timings.json").write_text(json.dumps(written))
    assert words in timed_runs(tmp_path / "timings.json")
    assert "missing" in timed_runs(tmp_path / "nowhere.json")


@pytest.mark.parametrize("written", [[], {"taken": True, "flaws": [], "scenarios": {"paced": [{"samples_ns": "x"}]}}])
def test_timings_that_were_edited_are_refused(tmp_path, written):
    (tmp_path / "timings.json").write_text(json.dumps(written))
    with pytest.raises(ArtifactError, match="edited or is damaged"):
        timed_runs(tmp_path / "timings.json")
