import itertools

import numpy as np
import pytest
from scipy.stats import binom

from robustdeploy.core.percentiles import samples_needed
from robustdeploy.evaluate.timings import percentile_of, timings_from


def test_samples_that_support_a_percentile_are_those_of_mlperf():
    assert [samples_needed(p) for p in (90.0, 99.0, 99.9)] == [64, 662, 6636]


@pytest.mark.parametrize(("percent", "needed"), [(90.0, 64), (99.0, 662), (99.9, 6636)])
def test_a_percentile_is_stated_only_where_it_is_supported(percent, needed):
    ordered = np.arange(needed, dtype=np.int64) * 1_000_000
    assert percentile_of(ordered, percent).value == needed - 1
    refused = percentile_of(ordered[:-1], percent)
    assert refused.value is None
    assert f"needs {needed}" in refused.reason


def test_the_estimate_bounds_the_true_percentile_and_the_interval_holds_it():
    rng = np.random.default_rng(0)
    true = -np.log(0.01) * 1e3  # the 99th percentile of an exponential with mean 1 s, in ms
    below = misses = 0
    for _ in range(2000):
        p99 = percentile_of(np.sort((rng.exponential(1e9, 900)).astype(np.int64)), 99.0)
        below += p99.value < true
        misses += not p99.low <= true <= p99.high
    assert below <= 2000 * 0.01 + 3 * (2000 * 0.01 * 0.99) ** 0.5
    assert misses <= 2000 * 0.05 + 3 * (2000 * 0.05 * 0.95) ** 0.5


@pytest.mark.parametrize("count", [3, 11, 64, 700, 7000, 100_000])
@pytest.mark.parametrize("percent", [50.0, 90.0, 99.0, 99.9])
def test_order_statistics_are_those_of_the_summed_binomial(count, percent):
    found = percentile_of(np.arange(count, dtype=np.int64) * 1_000_000, percent)
    share = 1 - percent / 100
    discard = int(np.sum(binom.cdf(np.arange(count), count, share) <= 0.01)) - 1
    assert (found.value is not None) == (discard >= 1)
    if found.value is not None:
        bound = (count - 1) / 2 if percent == 50 else count - discard
        below = binom.cdf(np.arange(count), count, percent / 100)
        low, high = int(np.sum(below <= 0.025)) - 1, int(np.sum(below < 0.975))
        assert found.value == pytest.approx(bound)
        assert found.low == pytest.approx(low)
        assert found.high == pytest.approx(max(bound, min(high, count - 1)))


def test_a_steady_measurement_keeps_the_interval_of_its_runs():
    runs = [np.full(1000, 1_000_000 + 1000 * k) for k in range(10)]
    timings = timings_from(runs)
    assert timings.steady
    p50 = timings.percentile("p50")
    # The 2nd and the 9th of ten runs' medians hold the typical one with 97.9 %.
    assert (p50.low, p50.high) == pytest.approx((1.001, 1.008))
    assert p50.runs == pytest.approx([1 + k / 1000 for k in range(10)])
    assert timings.mean.low == pytest.approx(1.001)
    assert timings.mean.value == pytest.approx(1.0045)


def test_an_unsteady_measurement_reaches_from_the_quietest_run_to_the_most_disturbed():
    runs = [np.full(1000, 1_000_000 * (1 + (k == 7))) for k in range(10)]
    timings = timings_from(runs)
    assert not timings.steady
    p50 = timings.percentile("p50")
    assert (p50.low, p50.value, p50.high) == (1.0, 1.0, 2.0)
    assert timings.percentile("p99").high == 2.0
    assert (timings.mean.low, timings.mean.high) == (1.0, 2.0)


def test_where_others_disturbed_runs_the_quiet_ones_tell_what_is_missed():
    """Runs 5 to 9 took twice as long while others kept the board busy."""
    runs = [np.full(1000, 2_000_000) for _ in range(5)] + [np.full(1000, 1_000_000) for _ in range(5)]
    runs[7][0] = 900_000
    reached = timings_from(runs, [True] * 5 + [False] * 5).percentile("p50")
    # The figure itself is of all runs, and its interval holds it.
    assert (reached.low, reached.value, reached.high) == (1.5, 1.5, 2.0)
    nobody = timings_from(runs, [False] * 10).percentile("p99")
    assert (nobody.low, nobody.high) == pytest.approx((0.9, 2.0))
    assert timings_from(runs).percentile("p50").low == 1.0


def test_drift_compares_the_last_third_with_the_first():
    rising = [np.full(100, 1000), np.full(100, 1100), np.full(100, 1200)]
    assert timings_from(rising).drift == pytest.approx(0.2)
    assert not timings_from(rising).steady
    assert timings_from([run[:5] for run in rising]).drift is None


def disjoint(intervals):
    return np.mean([a[1] < b[0] or b[1] < a[0] for a, b in itertools.combinations(intervals, 2)])


def noisy_runs(rng, apart, heavy):
    """Ten runs of one engine: each has an offset of its own, and some hold a share of long disturbances."""
    for _ in range(10):
        samples = rng.lognormal(0, 0.02, 1000) * rng.lognormal(0, apart)
        disturbed = rng.random(1000) < heavy * rng.random() ** 3
        yield (1e5 * np.where(disturbed, samples + rng.exponential(20), samples)).astype(np.int64)


@pytest.mark.parametrize(("apart", "heavy"), [(0.001, 0.0), (0.03, 0.0), (0.03, 0.05)])
@pytest.mark.parametrize("name", ["p50", "p99"])
def test_two_measurements_of_one_engine_seldom_disagree(name, apart, heavy):
    """Intervals from the samples alone are disjoint in more than half of these pairs where runs differ."""
    rng = np.random.default_rng(3)
    runs = [list(noisy_runs(rng, apart, heavy)) for _ in range(30)]
    found = [timings_from(run).percentile(name) for run in runs]
    assert disjoint([(p.low, p.high) for p in found]) <= 0.05
    if apart == 0.03 and name == "p50":
        alone = [percentile_of(np.sort(run[0]), 50) for run in runs]
        assert disjoint([(p.low, p.high) for p in alone]) > 0.5


def test_a_slower_engine_is_still_told_from_a_faster_one():
    rng = np.random.default_rng(4)
    one, other = list(noisy_runs(rng, 0.003, 0)), [2 * w for w in noisy_runs(rng, 0.003, 0)]
    for name in ("p50", "p99"):
        assert timings_from(one).percentile(name).high < timings_from(other).percentile(name).low


def test_an_interval_holds_its_figure_where_the_quiet_run_is_the_slowest():
    draw = np.random.default_rng(0)
    fast = [(5e4 * draw.lognormal(0, 0.5, 100)).astype(np.int64) for _ in range(9)]
    slow = (6e4 * draw.lognormal(0, 0.5, 100)).astype(np.int64)
    found = timings_from([*fast, slow], [False] * 9 + [True])
    assert not found.steady
    for figure in (*found.percentiles, found.mean):
        if figure.value is not None:
            assert figure.low <= figure.value <= figure.high
