import json

import numpy as np
import pytest
from scipy.stats import binom

from robustdeploy.errors import BoardError, UsageError
from robustdeploy.onboard.timing import (
    Plan,
    measure,
    percentile_of,
    samples_needed,
    timings_from_head,
    timings_from_samples,
    timings_head,
)


class Ticking:
    """A clock that only moves when something is run."""

    def __init__(self, costs_ns):
        self.now, self.costs, self.runs = 0, costs_ns, 0

    def __call__(self):
        return self.now

    def run(self):
        self.now += self.costs[self.runs % len(self.costs)]
        self.runs += 1


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
    true = -np.log(0.01) * 1e6  # the 99th percentile of an exponential with mean 1 ms
    below = misses = 0
    for _ in range(2000):
        p99 = percentile_of(np.sort((rng.exponential(1e9, 900)).astype(np.int64)), 99.0)
        below += p99.value * 1e6 < true * 1e3
        misses += not p99.low * 1e6 <= true * 1e3 <= p99.high * 1e6
    assert below <= 2000 * 0.01 + 3 * (2000 * 0.01 * 0.99) ** 0.5
    assert misses <= 2000 * 0.05 + 3 * (2000 * 0.05 * 0.95) ** 0.5


@pytest.mark.parametrize("count", [11, 64, 700, 7000, 100_000])
@pytest.mark.parametrize("percent", [50.0, 90.0, 99.0, 99.9])
def test_order_statistics_agree_with_scipy(count, percent):
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


def test_sampling_goes_on_until_both_minima_are_met():
    clock = Ticking([1_000_000])
    timings = measure(clock.run, Plan(warmup_s=0.05, min_s=0.2, max_s=10, min_samples=500), clock)
    assert len(timings.samples_ns) == 500
    assert timings.warmup_runs == 50
    assert timings.mean_ms == timings.min_ms == timings.max_ms == 1.0
    assert timings.cv == 0
    assert timings.overhead_ms == 0
    clock = Ticking([1_000_000])
    assert len(measure(clock.run, Plan(warmup_s=0, min_s=0.2, max_s=10, min_samples=5), clock).samples_ns) == 200


def test_the_longest_time_ends_it_and_unsupported_percentiles_say_why():
    clock = Ticking([50_000_000])
    timings = measure(clock.run, Plan(warmup_s=0, min_s=1, max_s=2, min_samples=7000), clock)
    assert len(timings.samples_ns) == 40
    assert timings.percentile("p50").value == 50
    assert timings.percentile("p90").value is None
    assert "40 samples" in timings.percentile("p99").reason


def test_drift_compares_the_last_third_with_the_first():
    rising = np.concatenate([np.full(100, 1000), np.full(100, 1100), np.full(100, 1200)])
    assert timings_from_samples(rising, 0.0, 1, 1.0).drift == pytest.approx(0.2)
    assert timings_from_samples(rising[:20], 0.0, 1, 1.0).drift is None


def test_a_real_clock_sees_a_real_cost():
    timings = measure(lambda: sum(range(2000)), Plan(warmup_s=0.01, min_s=0.05, max_s=1, min_samples=100))
    assert 0 < timings.overhead_ms < timings.min_ms <= timings.percentile("p50").value <= timings.max_ms
    assert timings.duration_s >= 0.05


def test_timings_survive_json():
    timings = timings_from_samples(np.arange(1, 701) * 1000, 0.001, 3, 1.5)
    back = timings_from_head(json.loads(json.dumps(timings_head(timings))), timings.samples_ns)
    assert timings_head(back) == timings_head(timings)
    with pytest.raises(BoardError, match="unknown form"):
        timings_from_head({"percentiles": [{"nonsense": 1}]}, timings.samples_ns)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"min_s": 5, "max_s": 1}, {"max_s": 1e9}, {"min_samples": 0}])
def test_a_plan_that_cannot_be_followed_is_refused(wrong):
    with pytest.raises(UsageError, match="cannot be followed"):
        Plan(**wrong)
