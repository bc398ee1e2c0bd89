from contextlib import contextmanager

import numpy as np
import pytest

from robustdeploy.core.gate import Outcome, Rule
from robustdeploy.core.load import load_target
from robustdeploy.core.subject import subject_from
from robustdeploy.core.target import LatencyPlan
from robustdeploy.devices.window import Window
from robustdeploy.errors import RecipeError
from robustdeploy.evaluate.latency import (
    Latency,
    Stopwatch,
    latency_diagnostic,
    measured_latency,
    timings_record,
    window_plan,
)
from robustdeploy.evaluate.opening import Opened
from robustdeploy.onboard.engine import EngineFile
from robustdeploy.report.judge import judge

TARGET = load_target("host-cpu")
SUBJECT = subject_from("pruned/fp32@host-cpu")
SENSORS = {"boot_id": "b", "throttle_counts": {"core": 3}}


def window(samples_ms, **changes):
    samples = (np.asarray(samples_ms) * 1e6).astype(np.int64)
    scores = np.ones((3, 2), np.float32)
    fields = {
        "samples_ns": samples,
        "starts_ns": np.cumsum(samples) - samples,
        "empty_ns": np.full(1000, 50),
        "warmup_runs": 3,
        "duration_ns": int(samples.sum()) + 1000,
        "before": SENSORS,
        "after": SENSORS,
        "scores_before": scores,
        "scores_after": scores,
    }
    return Window(**{**fields, **changes})


def quiet(level=1.0, count=1000):
    return window(level + 0.001 * np.arange(count) / count)


def disturbed(longest=9.0):
    """Two of a hundred calls take ``longest`` ms."""
    return window(np.where(np.arange(1000) % 50 == 0, longest, 1.0))


STEADY = Latency(tuple(quiet() for _ in range(10)))
NOISY = Latency(tuple(disturbed() if number % 2 else quiet() for number in range(10)))


def judged(latency, limit, metric="latency_ms.p99", on="bound"):
    rule = Rule(id="RD-LAT-01", metric=metric, at_most=limit, on=on)
    verdict = judge(measured_latency(latency, TARGET, SUBJECT), [latency_diagnostic(latency)], [rule])
    return verdict.outcome, verdict.rules[0].text


@pytest.mark.parametrize("on", ["bound", "value"])
@pytest.mark.parametrize("metric", ["latency_ms.p99", "latency_ms.mean"])
def test_noise_never_decides_a_rule(metric, on):
    worst = 9.0 if metric == "latency_ms.p99" else 1.16
    assert judged(NOISY, worst + 0.01, metric, on)[0] is Outcome.PASS
    assert judged(NOISY, 0.999, metric, on)[0] is Outcome.FAIL
    outcome, text = judged(NOISY, 1.1, metric, on)
    assert outcome is Outcome.INCONCLUSIVE
    assert "noise decides: the quietest window meets the limit" in text


@pytest.mark.parametrize("on", ["bound", "value"])
def test_a_steady_measurement_is_judged_as_any_other(on):
    assert judged(STEADY, 1.1, on=on)[0] is Outcome.PASS
    assert judged(STEADY, 0.9, on=on)[0] is Outcome.FAIL


def test_rows_say_how_their_interval_came_about():
    rows = {row.metric: row for row in measured_latency(NOISY, TARGET, SUBJECT)}
    assert set(rows) == {f"latency_ms.{name}" for name in ("p50", "p90", "p99", "p99.9", "mean", "cv")}
    p99 = rows["latency_ms.p99"]
    assert (p99.low, p99.high) == (pytest.approx(1, abs=0.002), 9.0)
    assert p99.n == 10_000
    assert p99.conditions["windows"] == 10
    assert p99.conditions["steady"] is False
    assert "quietest window" in p99.conditions["interval"]
    assert rows["latency_ms.cv"].low is None
    assert rows["latency_ms.cv"].value == pytest.approx(0.7368, abs=0.0001)
    steady = measured_latency(STEADY, TARGET, SUBJECT)[0]
    assert steady.conditions["steady"] is True
    assert "order statistics" in steady.conditions["interval"]


def test_the_diagnostic_says_what_noise_means_for_the_reader():
    found = latency_diagnostic(NOISY)
    assert found.level == "warn"
    assert "noise disturbed the latency: the samples of 10 windows varied by 73.7% and drifted by" in found.text
    assert "(limits 3% and 1%)" in found.text
    assert "met only where the most disturbed window meets it" in found.text
    assert "p99: 1 to 9 ms" in found.text
    assert latency_diagnostic(STEADY).level == "ok"
    assert latency_diagnostic(None).level == "warn"
    assert all(len(sentence.split()) <= 25 for sentence in found.text.replace(";", ".").split(". "))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"after": {**SENSORS, "throttle_counts": {"core": 5}}}, "thermal throttling was counted 2 times by core"),
        ({"after": {**SENSORS, "boot_id": "c"}}, "rebooted"),
        ({"scores_after": np.zeros((3, 2), np.float32)}, "scores changed"),
    ],
)
def test_one_window_that_cannot_be_trusted_discards_all(changes, words):
    latency = Latency((*STEADY.windows[:9], window(np.ones(1000), **changes)))
    assert measured_latency(latency, TARGET, SUBJECT) == ()
    found = latency_diagnostic(latency)
    assert found.level == "warn"
    assert words in found.text
    assert words in timings_record(latency)["flaws"][0]


def test_scores_that_differ_between_windows_are_no_scores():
    other = np.full((3, 2), 2, np.float32)
    latency = Latency((*STEADY.windows[:9], window(np.ones(1000), scores_before=other, scores_after=other)))
    assert measured_latency(latency, TARGET, SUBJECT) == ()


def test_the_record_holds_every_sample_of_every_window():
    record = timings_record(NOISY)
    assert [len(each["samples_ns"]) for each in record["windows"]] == [1000] * 10
    assert record["windows"][1]["samples_ns"][0] == 9_000_000
    assert timings_record(None) == {"taken": False, "reason": "the board is emulated"}


def test_windows_share_the_plan():
    plan = window_plan(LatencyPlan(windows=10, min_s=3, max_s=60, min_samples=7001, warmup_s=0.1, batch=2))
    assert plan == {"batch": 2, "warmup_s": 0.1, "min_s": 0.3, "max_s": 6, "min_samples": 701}


class Spy:
    """A board that writes down what it is asked; nothing is measured here."""

    def __init__(self):
        self.asked = []

    def open_engine(self, backend, files, options, classes):
        self.asked.append(f"open {files[0].name} for {classes}")

    def time(self, plan, images):
        self.asked.append("time")
        return quiet()


@contextmanager
def stopwatch(**plan):
    spy, pauses = Spy(), []
    target = TARGET.model_copy(update={"latency": LatencyPlan(**plan)})
    opened = Opened({}, (EngineFile("e", "0" * 64, 1),), 5, 0.0, 1.0, False)
    yield Stopwatch(spy, target, opened, None, lambda *_: None, pauses.append), spy, pauses


def test_windows_are_spread_and_the_rest_is_taken_with_pauses():
    with stopwatch(windows=6, min_s=3) as (watch, spy, pauses):
        for _ in range(2):
            watch.take()
        latency = watch.finish()
        assert len(latency.windows) == 6
        assert spy.asked == ["open e for 5", "time"] * 6
        assert pauses == [1] * 4
        watch.take()
        assert len(spy.asked) == 12


def test_an_emulated_board_is_not_timed():
    with stopwatch() as (watch, spy, _):
        watch.target = watch.target.model_copy(update={"emulated": True})
        watch.take()
        assert watch.finish() is None
        assert spy.asked == []


@pytest.mark.parametrize(
    ("plan", "words"), [("{min_s: 9, max_s: 3}", "min_s must not be above max_s"), ("{windows: 5}", "at least 6")]
)
def test_a_plan_that_cannot_be_followed_is_refused_at_once(tmp_path, plan, words):
    (tmp_path / "t.yaml").write_text(f"extends: host-cpu\nname: t\ndescription: d\nlatency: {plan}\n")
    with pytest.raises(RecipeError, match=words):
        load_target(tmp_path / "t.yaml")
