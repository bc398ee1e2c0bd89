from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from robustdeploy.core.gate import Outcome, Rule
from robustdeploy.core.load import load_target
from robustdeploy.core.subject import subject_from
from robustdeploy.core.target import LatencyPlan
from robustdeploy.devices.run import Run, Telemetry
from robustdeploy.devices.window import Window
from robustdeploy.errors import RecipeError
from robustdeploy.evaluate.latency import Latency, Stopwatch, run_plan, timings_record
from robustdeploy.evaluate.latency_rows import latency_diagnostic, latency_diagnostics, measured_latency
from robustdeploy.evaluate.opening import Opened
from robustdeploy.onboard.engine import EngineFile
from robustdeploy.onboard.telemetry import CLOCKS, LOAD, SILENT
from robustdeploy.report.judge import judge

TARGET = load_target("host-cpu")
SUBJECT = subject_from("pruned/fp32@host-cpu")
SENSORS = {"boot_id": "b", "throttle_counts": {"core": 3}}


CHANNELS = (*CLOCKS, "own_stops")


def watched(duration, channels=CHANNELS, rows=None):
    """Readings of all clocks, from before a window that begins at 0 to after it; all other channels stay at 0."""
    times = np.linspace(-1000, duration + 1000, 9).astype(np.int64)
    values = np.zeros((len(times), len(channels)), np.int64)
    values[:, : len(CLOCKS)] = times[:, None]
    for name, column in (rows or {}).items():
        values[:, channels.index(name)] = column
    return Telemetry(channels, values)


def window(samples_ms, telemetry=None, load_ms=200.0, **changes):
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
    whole = {"peak_memory_bytes": 64 << 20, "first_ns": 5_000_000, **fields, **changes}
    return Run(Window(**whole), telemetry or watched(whole["duration_ns"]), load_ns=int(load_ms * 1e6))


def quiet(level=1.0, count=1000):
    return window(level + 0.001 * np.arange(count) / count)


def disturbed(longest=9.0):
    """Two of a hundred calls take ``longest`` ms."""
    return window(np.where(np.arange(1000) % 50 == 0, longest, 1.0))


def single(runs, **changes):
    return Latency({"single-stream": tuple(runs)}, TARGET.model_copy(update=changes))


STEADY = single(quiet() for _ in range(10))
NOISY = single(disturbed() if number % 2 else quiet() for number in range(10))


def judged(latency, limit, metric="latency_ms.p99", on="bound"):
    rule = Rule(id="RD-LAT-01", metric=metric, at_most=limit, on=on)
    verdict = judge(measured_latency(latency, SUBJECT), [latency_diagnostic(latency)], [rule])
    return verdict.outcome, verdict.rules[0].text


@pytest.mark.parametrize("on", ["bound", "value"])
@pytest.mark.parametrize("metric", ["latency_ms.p99", "latency_ms.mean"])
def test_noise_never_decides_a_rule(metric, on):
    worst = 9.0 if metric == "latency_ms.p99" else 1.16
    assert judged(NOISY, worst + 0.01, metric, on)[0] is Outcome.PASS
    assert judged(NOISY, 0.999, metric, on)[0] is Outcome.FAIL
    outcome, text = judged(NOISY, 1.1, metric, on)
    assert outcome is Outcome.INCONCLUSIVE
    assert "noise decides: the quietest run meets the limit" in text


@pytest.mark.parametrize("on", ["bound", "value"])
def test_a_steady_measurement_is_judged_as_any_other(on):
    assert judged(STEADY, 1.1, on=on)[0] is Outcome.PASS
    assert judged(STEADY, 0.9, on=on)[0] is Outcome.FAIL


def test_rows_say_how_their_interval_came_about():
    rows = {row.metric: row for row in measured_latency(NOISY, SUBJECT)}
    costs = {"load_ms", "first_inference_ms", "peak_memory_mib"}
    assert set(rows) == {f"latency_ms.{name}" for name in ("p50", "p90", "p99", "p99.9", "mean", "cv")} | costs
    assert (rows["load_ms"].value, rows["first_inference_ms"].value, rows["peak_memory_mib"].value) == (200, 5, 64)
    p99 = rows["latency_ms.p99"]
    assert (p99.low, p99.high) == (pytest.approx(1, abs=0.002), 9.0)
    assert p99.n == 10_000
    assert p99.conditions["runs"] == 10
    assert p99.conditions["steady"] is False
    assert "quietest run" in p99.conditions["interval"]
    assert rows["latency_ms.cv"].low is None
    assert rows["latency_ms.cv"].value == pytest.approx(0.7368, abs=0.0001)
    steady = measured_latency(STEADY, SUBJECT)[0]
    assert steady.conditions["steady"] is True
    assert "order statistics" in steady.conditions["interval"]


def test_the_diagnostic_says_what_noise_means_for_the_reader():
    found = latency_diagnostic(NOISY)
    assert found.level == "warn"
    assert "noise disturbed the latency: the samples of 10 runs varied by 73.7 % and drifted by" in found.text
    assert "(limits 3 % and 1 %)" in found.text
    assert "met only where the most disturbed run meets it" in found.text
    assert "p99: 1 to 9 ms" in found.text
    assert "Of p99.9 these samples tell that it is 9 ms at most" in found.text
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
def test_one_run_that_cannot_be_trusted_discards_all(changes, words):
    latency = single((*STEADY.runs[:9], window(np.ones(1000), **changes)))
    assert measured_latency(latency, SUBJECT) == ()
    found = latency_diagnostic(latency)
    assert found.level == "warn"
    assert words in found.text
    assert words in timings_record(latency)["flaws"][0]


def test_scores_that_differ_between_runs_are_no_scores():
    other = np.full((3, 2), 2, np.float32)
    latency = single((*STEADY.runs[:9], window(np.ones(1000), scores_before=other, scores_after=other)))
    assert measured_latency(latency, SUBJECT) == ()


def test_the_record_holds_every_sample_of_every_run():
    record = timings_record(NOISY)
    runs = record["scenarios"]["single-stream"]
    assert [len(each["samples_ns"]) for each in runs] == [1000] * 10
    assert runs[1]["samples_ns"][0] == 9_000_000
    assert runs[0]["telemetry"]["channels"]["own_stops"] == [0] * 9
    assert timings_record(None) == {"taken": False, "reason": "the board is emulated"}


def test_runs_share_the_plan():
    asked = LatencyPlan(
        runs=10,
        min_s=3,
        max_s=60,
        min_samples=7001,
        warmup_s=0.1,
        batch=2,
        scenarios=("single-stream", "paced"),
        period_ms=33.3,
    )
    share = {"batch": 2, "warmup_s": 0.1, "min_s": 0.3, "max_s": 6, "min_samples": 701, "period_ns": 0}
    assert run_plan(asked) == share
    assert run_plan(asked, "paced") == {**share, "period_ns": 33_300_000}


class Spy:
    """A board that writes down what it is asked; nothing is measured here."""

    def __init__(self):
        self.asked = []

    def run(self, backend, files, options, plan, images):
        self.asked.append(f"run {files[0].name}, period {plan['period_ns']}")
        return quiet()


@contextmanager
def stopwatch(**plan):
    spy, pauses = Spy(), []
    target = TARGET.model_copy(update={"latency": LatencyPlan(**plan)})
    opened = Opened({}, (EngineFile("e", "0" * 64, 1),), 5, 0.0, 1.0, False)
    yield Stopwatch(spy, target, opened, None, lambda *_: None, pauses.append), spy, pauses


def test_runs_are_spread_and_the_rest_is_taken_with_pauses():
    with stopwatch(runs=12, min_s=3) as (watch, spy, pauses):
        for _ in range(2):
            watch.take()
        latency = watch.finish()
        assert len(latency.runs) == 12
        assert spy.asked == ["run e, period 0"] * 12
        assert pauses == [1] * 10
        watch.take()
        assert len(spy.asked) == 12


def test_an_emulated_board_is_not_timed():
    with stopwatch() as (watch, spy, _):
        watch.target = watch.target.model_copy(update={"emulated": True})
        watch.take()
        assert watch.finish() is None
        assert spy.asked == []


def test_each_scenario_is_taken_in_turn():
    with stopwatch(scenarios=("single-stream", "paced", "offline"), period_ms=5) as (watch, spy, _):
        latency = watch.finish()
        assert spy.asked == ["run e, period 0", "run e, period 5000000", "run e, period 0"] * 10
        assert [len(runs) for runs in latency.scenarios.values()] == [10] * 3


def test_the_dense_net_takes_turns_and_neither_is_always_first():
    plan = {"scenarios": ("paced", "single-stream"), "period_ms": 5}
    with stopwatch(**plan) as (watch, spy, _):
        watch.dense = (EngineFile("d", "1" * 64, 1),)
        latency = watch.finish()
    # In the scenario alone in which calls follow each other at once.
    turn = ["run e, period 5000000", "run e, period 0", "run d, period 0"]
    assert spy.asked == [*turn, turn[0], turn[2], turn[1]] * 5
    assert len(latency.pairs) == 10
    assert all(own is run for (own, _), run in zip(latency.pairs, latency.scenarios["single-stream"], strict=True))
    assert len(timings_record(latency)["dense"]) == 10


def paired(fractions, **changes):
    """Runs of a dense net that takes 1 ms, busier and busier, and of one that takes those fractions of it."""
    pairs = [
        (quiet(level * fraction), window(np.full(1000, level), **changes))
        for level, fraction in zip(np.linspace(1, 3, len(fractions)), fractions, strict=True)
    ]
    return Latency({"single-stream": tuple(own for own, _ in pairs)}, TARGET, tuple(pairs))


@pytest.mark.parametrize(
    ("fractions", "level", "words"),
    [
        ([0.5] * 10, "ok", "it takes 50.0 % of the dense net's time, 50.0 to 50.0 %: pruning bought time here"),
        ([1.2] * 10, "warn", "pruning made it slower here. What helps: channels in multiples of"),
        ([0.8, 1.2] * 5, "warn", "it is not known to be faster. What helps: channels in multiples of"),
    ],
)
def test_what_pruning_bought_is_told_run_by_run(fractions, level, words):
    latency = paired(fractions)
    (row,) = [row for row in measured_latency(latency, SUBJECT) if row.metric == "latency_fraction"]
    assert row.value == pytest.approx(np.median(fractions), abs=0.002)
    assert row.n == row.conditions["pairs_of_runs"] == 10
    assert row.conditions["against"] == "dense/fp32@host-cpu"
    (told,) = [each for each in latency_diagnostics(latency) if each.id == "faster-than-dense"]
    assert told.level == level
    assert words in told.text


def test_what_helps_names_the_multiple_that_the_target_knows():
    slower = paired([1.2] * 10)
    unknown = replace(slower, target=TARGET.model_copy(update={"channel_multiple": 1}))
    (told,) = [each for each in latency_diagnostics(unknown) if each.id == "faster-than-dense"]
    assert f"in the multiple that `robustdeploy profile --target {TARGET.name}` finds" in told.text
    slower = replace(slower, target=TARGET.model_copy(update={"channel_multiple": 16}))
    (told,) = [each for each in latency_diagnostics(slower) if each.id == "faster-than-dense"]
    assert told.text.endswith(
        "What helps: channels in multiples of 16 (budget.preferred_multiple), a limit on the time itself "
        "(--latency-target), or a smaller budget"
    )


def test_a_dense_net_that_was_throttled_says_nothing_of_the_pruned_one():
    latency = paired([0.5] * 10, after={**SENSORS, "throttle_counts": {"core": 5}})
    names = [row.metric for row in measured_latency(latency, SUBJECT)]
    # The subject's own times are as good as they were.
    assert "latency_ms.p50" in names
    assert "latency_fraction" not in names
    assert judged(latency, 0.7, "latency_fraction")[0] is Outcome.INCONCLUSIVE
    (told,) = [each for each in latency_diagnostics(latency) if each.id == "faster-than-dense"]
    assert told.level == "warn"
    assert "cannot be told" in told.text


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ("{min_s: 9, max_s: 3}", "min_s must not be above max_s"),
        ("{runs: 9}", "at least 10"),
        ("{scenarios: [paced]}", "no period is given; set period_ms"),
        ("{period_ms: 33}", "period_ms is for the scenario 'paced'"),
        ("{scenarios: [offline, offline]}", "'offline' twice"),
        ("{scenarios: [multi]}", "single-stream"),
        ("{scenarios: []}", "at least 1"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused_at_once(tmp_path, plan, words):
    (tmp_path / "t.yaml").write_text(f"extends: host-cpu\nname: t\ndescription: d\nlatency: {plan}\n")
    with pytest.raises(RecipeError, match=words):
        load_target(tmp_path / "t.yaml")


def paced(costs_ms, period_ms=10.0, deadline_ms=None, count=200):
    """Rows of runs whose calls take ``costs_ms`` in turn, each begun when it is due or the one before ends."""
    plan = LatencyPlan(scenarios=("paced",), period_ms=period_ms, deadline_ms=deadline_ms)
    costs = (np.resize(np.asarray(costs_ms, float), count) * 1e6).astype(np.int64)
    period, starts, free = int(period_ms * 1e6), [], 0
    for number, cost in enumerate(costs.tolist()):
        starts.append(max(free, number * period))
        free = starts[-1] + cost
    fields = {"starts_ns": np.array(starts), "period_ns": period, "duration_ns": free}
    runs = tuple(window(costs / 1e6, **fields) for _ in range(10))
    return {
        row.metric: row
        for row in measured_latency(Latency({"paced": runs}, TARGET.model_copy(update={"latency": plan})), SUBJECT)
    }


def test_responses_count_from_the_moment_an_image_is_due():
    rows = paced([4.0])
    assert rows["response_ms.p50"].value == 4
    assert rows["response_ms.p99"].n == 2000
    assert rows["deadline_miss_fraction"].value == rows["overrun_fraction"].value == 0
    assert rows["deadline_miss_fraction"].high == pytest.approx(0.0018, abs=0.0001)
    assert "latency_ms.p50" not in rows
    assert rows["response_ms.p99"].conditions["period_ms"] == 10


def test_a_stall_makes_the_images_behind_it_late_as_well():
    """One call in forty takes 35 ms of a period of 10: the three images behind it wait 25, 19 and 13 ms."""
    rows = paced([35.0, *[4.0] * 39])
    # Late against 10 ms: the call itself, and those that end 29, 23 and 17 ms and 11 ms after they were due.
    assert rows["deadline_miss_fraction"].value == pytest.approx(5 / 40)
    assert rows["overrun_fraction"].value == pytest.approx(5 / 40)
    assert rows["response_ms.p99"].value == 35
    assert paced([35.0, *[4.0] * 39], deadline_ms=30)["deadline_miss_fraction"].value == pytest.approx(1 / 40)


def test_an_engine_that_is_slower_than_its_sensor_never_passes_a_limit():
    rows = paced([25.0])
    assert rows["deadline_miss_fraction"].value > 0.99
    p50 = rows["response_ms.p50"]
    assert p50.high is None
    assert p50.conditions["unanswered"] == 10 * 299
    rule = Rule(id="RD-LAT-01", metric="response_ms.p50", at_most=1e9)
    assert judge([p50], [], [rule]).outcome is Outcome.INCONCLUSIVE
    missed = rule.model_copy(update={"at_most": 20.0})
    assert judge([p50], [], [missed]).outcome is Outcome.FAIL


def test_throughput_is_images_by_the_second():
    runs = tuple(quiet(2.0) for _ in range(10))
    plan = LatencyPlan(scenarios=("offline",), batch=4)
    rows = measured_latency(Latency({"offline": runs}, TARGET.model_copy(update={"latency": plan})), SUBJECT)
    row = next(row for row in rows if row.metric == "throughput_images_s")
    assert row.value == pytest.approx(4 / 0.0020005, rel=1e-3)
    rule = Rule(id="RD-LAT-01", metric="throughput_images_s", at_least=1000)
    assert judge(rows, [], [rule]).outcome is Outcome.PASS


def powered(channel, per_reading, count=1000):
    """A run of ``count`` calls of 1 ms whose rail or counter told these values."""
    return window(np.ones(count), watched(count * 10**6, (*CHANNELS, channel), {channel: per_reading}))


def energy(runs):
    latency = single(runs)
    rows = {row.metric: row for row in measured_latency(latency, SUBJECT)}
    told = next(each for each in latency_diagnostics(latency) if each.id == "energy")
    return rows.get("energy_mj"), told


def test_energy_is_that_of_the_rail_while_the_engine_is_timed():
    row, told = energy(powered("power_uw/hwmon3:VDD_IN", 5_000_000 + 1000 * np.arange(9)) for _ in range(10))
    assert row.value == pytest.approx(5.004, rel=1e-3)  # 5 W for a millisecond
    assert row.conditions["rails"] == "hwmon3:VDD_IN"
    assert "energy was read from hwmon3:VDD_IN" in told.text
    joules = np.linspace(0, 2_000_000, 9).astype(np.int64)  # 2 J in a second
    row, _ = energy(powered("energy_uj/intel-rapl:0:package-0", joules) for _ in range(10))
    assert row.value == pytest.approx(2, rel=1e-3)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda: quiet(), "no power rail of this board can be read"),
        (lambda: powered("power_uw/hwmon3:VDD_IN", SILENT), "VDD_IN could not be read while the engine was timed"),
        (lambda: powered("energy_uj/intel-rapl:0:package-0", SILENT), "its counter may be read by root alone"),
        (lambda: powered("power_uw/hwmon3:VDD_IN", 0), "which is no energy"),
    ],
)
def test_energy_that_cannot_be_read_is_unavailable_and_never_zero(run, words):
    row, told = energy(run() for _ in range(10))
    assert row is None
    assert told.text.startswith("energy is unavailable: ")
    assert words in told.text
    rule = Rule(id="RD-EN-01", metric="energy_mj", at_most=1)
    latency = single(run() for _ in range(10))
    diagnostics = [each.model_copy(update={"subject": str(SUBJECT)}) for each in latency_diagnostics(latency)]
    verdict = judge(measured_latency(latency, SUBJECT), diagnostics, [rule])
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert words in verdict.rules[0].text


def test_a_process_that_holds_more_than_the_target_allows_never_passes():
    told = {each.id: each for each in latency_diagnostics(single([quiet()] * 10, memory_limit_mib=63))}
    assert told["memory-limit"].level == "block"
    assert "held up to 64 MiB, and the target allows 63 MiB" in told["memory-limit"].text
    told = {each.id: each for each in latency_diagnostics(single([quiet()] * 10, memory_limit_mib=64))}
    assert told["memory-limit"].level == "ok"


def busy(samples_ms, waited):
    """A run whose process waited for a processor so much of its second."""
    channels = (*CLOCKS, *LOAD)
    rows = {
        "own_cpu_ns": np.linspace(0, (1 - waited) * 1e9, 9).astype(np.int64),
        "own_wait_ns": np.linspace(0, waited * 1e9, 9).astype(np.int64),
        "all_ms": np.linspace(0, 2000, 9).astype(np.int64),
    }
    return window(samples_ms, watched(10**9, channels, rows), duration_ns=10**9)


def test_a_busy_board_passes_what_even_disturbed_samples_meet_and_fails_what_no_call_meets():
    slow = np.where(np.arange(500) % 2, 2.0, 1.5)
    crowd = single(busy(slow, 0.4) for _ in range(10))
    assert judged(crowd, 2.1)[0] is Outcome.PASS
    outcome, text = judged(crowd, 1.9)
    assert outcome is Outcome.INCONCLUSIVE
    assert "no run was undisturbed" in text
    assert judged(crowd, 1.4)[0] is Outcome.FAIL
    told = latency_diagnostic(crowd).text
    assert (
        "In 10 runs others kept the board busy, e.g. the timed process waited for a processor 40% of its time" in told
    )
    # Where one run had the board for itself, it tells what is missed.
    alone = single([busy(slow, 0.0), *(busy(slow, 0.4) for _ in range(9))])
    assert judged(alone, 1.9)[0] is Outcome.FAIL
