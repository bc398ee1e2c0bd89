import numpy as np
import pytest

from robustdeploy.errors import UsageError
from robustdeploy.onboard.timing import EMPTY_CALLS, Plan, measure


class Ticking:
    """A clock that only moves when something is run."""

    def __init__(self, costs_ns):
        self.now, self.costs, self.runs = 0, costs_ns, 0

    def __call__(self):
        return self.now

    def run(self):
        self.now += self.costs[self.runs % len(self.costs)]
        self.runs += 1


def test_sampling_goes_on_until_both_minima_are_met():
    clock = Ticking([1_000_000])
    taken = measure(clock.run, Plan(warmup_s=0.05, min_s=0.2, max_s=10, min_samples=500), clock)
    assert taken.samples_ns.tolist() == [1_000_000] * 500
    assert taken.warmup_runs == 50
    assert taken.empty_ns.tolist() == [0] * EMPTY_CALLS
    assert taken.duration_ns == 500_000_000
    clock = Ticking([1_000_000])
    assert len(measure(clock.run, Plan(warmup_s=0, min_s=0.2, max_s=10, min_samples=5), clock).samples_ns) == 200


def test_the_longest_time_ends_it():
    clock = Ticking([50_000_000])
    taken = measure(clock.run, Plan(warmup_s=0, min_s=1, max_s=2, min_samples=7000), clock)
    assert len(taken.samples_ns) == 40
    assert taken.warmup_runs == 1


def test_samples_come_in_the_order_they_were_taken():
    clock = Ticking([10, 30, 20])
    taken = measure(clock.run, Plan(warmup_s=0, min_s=0, max_s=1, min_samples=5), clock)
    assert taken.samples_ns.tolist() == [30, 20, 10, 30, 20]
    assert taken.starts_ns.tolist() == [0, 30, 50, 60, 90]
    assert taken.samples_ns.dtype == taken.starts_ns.dtype == np.int64


def test_a_real_clock_sees_a_real_cost():
    taken = measure(lambda: sum(range(2000)), Plan(warmup_s=0.01, min_s=0.05, max_s=1, min_samples=100))
    assert 0 < np.median(taken.empty_ns) < taken.samples_ns.min()
    assert taken.samples_ns.sum() / 0.9 >= 0.05e9
    assert taken.samples_ns.sum() <= taken.duration_ns


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"min_s": 5, "max_s": 1}, {"max_s": 1e9}, {"min_samples": 0}])
def test_a_plan_that_cannot_be_followed_is_refused(wrong):
    with pytest.raises(UsageError, match="cannot be followed"):
        Plan(**wrong)
