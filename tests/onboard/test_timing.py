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
    assert (taken.warmup_runs, taken.warm) == (50, True)
    assert taken.empty_ns.tolist() == [0] * EMPTY_CALLS
    assert taken.duration_ns == 500_000_000
    clock = Ticking([1_000_000])
    assert len(measure(clock.run, Plan(warmup_s=0, min_s=0.2, max_s=10, min_samples=5), clock).samples_ns) == 200


def test_the_longest_time_ends_it():
    clock = Ticking([50_000_000])
    taken = measure(clock.run, Plan(warmup_s=0, min_s=1, max_s=2, min_samples=7000), clock)
    assert len(taken.samples_ns) == 40
    assert taken.warmup_runs == 1


def falling(costs_ns):
    """Calls that get quicker, as those of a cold engine do, and stay what the last one is."""
    clock = Ticking(costs_ns)
    clock.costs = [*costs_ns, *[costs_ns[-1]] * 100_000]
    return clock


def test_warming_up_goes_on_until_calls_get_no_quicker():
    clock = falling([1_000_000 - 2_000 * k for k in range(300)])
    taken = measure(clock.run, Plan(warmup_s=0.1, min_s=0, max_s=1, min_samples=5), clock)
    assert taken.warm
    assert taken.warmup_runs > 300
    assert set(taken.samples_ns.tolist()) == {402_000}


def test_warming_up_ends_where_calls_get_quicker_for_ever():
    clock = falling([int(1_000_000 * 0.99**k) for k in range(2000)])
    taken = measure(clock.run, Plan(warmup_s=0.01, min_s=0, max_s=1, min_samples=5), clock)
    assert not taken.warm
    assert taken.warmup_runs < 200


def test_noise_alone_does_not_make_a_warm_up_longer():
    clock = Ticking([1_000_000, 1_000_000, 9_000_000, 1_000_000, 3_000_000])
    taken = measure(clock.run, Plan(warmup_s=0.3, min_s=0, max_s=1, min_samples=5), clock)
    assert taken.warm
    assert taken.warmup_runs == pytest.approx(100, abs=5)


class Pacing(Ticking):
    """Sleeping moves its clock as well, and a look at it costs a little, so that waiting for a moment ends."""

    def __call__(self):
        self.now += 1
        return self.now

    def sleep(self, seconds):
        self.now += int(seconds * 1e9)


def paced(costs_ns, **plan):
    clock = Pacing(costs_ns)
    asked = Plan(**{"warmup_s": 0, "min_s": 0, "max_s": 10, "min_samples": 20, "period_ns": 10_000_000, **plan})
    return measure(clock.run, asked, clock, clock.sleep)


def test_paced_calls_begin_when_they_are_due():
    taken = paced([1_000_000])
    due = 10_000_000 * np.arange(20)
    assert (taken.starts_ns >= due).all()
    assert (taken.starts_ns < due + 10).all()


def test_a_late_call_moves_no_later_moment():
    """Call 4 takes three periods and a half: the ones after it begin at once, and the schedule is met again."""
    costs = [1_000_000] * 50
    costs[4 + 1] = 35_000_000  # the warm-up takes the first
    taken = paced(costs)
    late = taken.starts_ns - 10_000_000 * np.arange(20)
    assert (late[:5] < 10).all()
    assert [round(each / 1e6) for each in late[5:9]] == [25, 16, 7, 0]
    assert (late[8:] < 10).all()


def test_an_engine_that_is_too_slow_for_its_period_is_stopped_after_the_longest_time():
    taken = paced([25_000_000], max_s=1, min_samples=1000)
    assert len(taken.samples_ns) == 40
    assert taken.duration_ns == pytest.approx(1e9, rel=0.01)


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


@pytest.mark.parametrize(
    "wrong",
    [{"batch": 0}, {"min_s": 5, "max_s": 1}, {"max_s": 1e9}, {"min_samples": 0}, {"period_ns": -1}, {"period_ns": 0.5}],
)
def test_a_plan_that_cannot_be_followed_is_refused(wrong):
    with pytest.raises(UsageError, match="cannot be followed"):
        Plan(**wrong)
