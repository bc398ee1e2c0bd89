"""A window of samples: what a slow or a busy board gives is believed, and samples that leave time out are not."""

import numpy as np
import pytest

from robustdeploy.devices.answers import Sensors
from robustdeploy.devices.answers import Window as Head
from robustdeploy.devices.window import window_from
from robustdeploy.errors import BoardError
from robustdeploy.onboard.timing import EMPTY_CALLS, Plan, measure

SENSORS = {
    **dict.fromkeys(("boot_id", "cpu_model", "board_model"), "b"),
    "load_1m": 0.0,
    **{
        name: {}
        for name in (
            "clocks_khz",
            "governors",
            "gpu_clocks_hz",
            "gpu_ranges_hz",
            "thermal",
            "cooling",
            "throttle_counts",
            "overcurrent_counts",
        )
    },
}
PLAN = Plan(batch=1, warmup_s=0, min_s=0, max_s=60, min_samples=50)
US, MS = 1_000, 1_000_000


def checked(samples, gaps, empty=60, tail=0, plan=PLAN):
    """Hold a window of ``samples``, with ``gaps`` after each of them, against the clock of a host that saw it all."""
    samples, gaps = np.asarray(samples, np.int64), np.asarray(gaps, np.int64)
    steps = samples + gaps
    duration = int(steps.sum()) + tail + 1
    scores = np.ones((1, 2), np.float32)
    arrays = {
        "samples_ns": samples,
        "starts_ns": np.cumsum(steps) - steps,
        "empty_ns": np.broadcast_to(empty, (EMPTY_CALLS,)).astype(np.int64),
        "scores_before": scores,
        "scores_after": scores,
        "parts_ns": np.zeros((0, 0), np.int64),
    }
    sensors = Sensors.model_validate(SENSORS)
    head = Head(
        warmup_runs=1,
        warm=True,
        began_ns=0,
        duration_ns=duration,
        first_ns=None,
        peak_memory_bytes=0,
        parts=[],
        before=sensors,
        after=sensors,
        queries_total=0,
    )
    return window_from("time", head, arrays, plan, duration * 1e-9 + 1, (1, 2))


def even(value, count=700):
    return np.full(count, value)


HONEST = {
    "a quick net": (even(44 * US), even(280), 60),
    "a large net, whose weights push the harness out of the caches": (even(13 * MS), even(9 * US), 60),
    "a large net on a small board": (even(400 * MS, 50), even(2 * MS, 50), 900),
    "next to nothing": (even(1500), even(900), 60),
    "a small board": (even(3 * MS), even(9 * US), 1500),
    "a stall of half a second in a gap": (even(1 * MS), np.where(np.arange(700) == 9, 500 * MS, 300), 60),
    "a crowded board, where every long call leaves the harness cold": (
        np.where(np.arange(700) % 5 == 0, 13 * MS, 800_000),
        np.where(np.arange(700) % 5 == 0, 150 * US, 2600),
        60,
    ),
    "stalls in samples and, seldom, in gaps": (
        np.where(np.arange(700) % 9 == 0, 40 * MS, 1 * MS),
        np.where(np.arange(700) % 99 == 3, 40 * MS, 300),
        60,
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_what_a_slow_or_a_busy_board_measures_is_believed(name):
    samples, gaps, empty = HONEST[name]
    assert checked(samples, gaps, empty).samples_ns.tolist() == list(samples)


def test_a_call_that_leaves_no_cache_warm_is_believed():
    much = np.ones(1 << 22)
    taken = measure(much.sum, PLAN)
    checked(taken.samples_ns, np.append(np.diff(taken.starts_ns) - taken.samples_ns[:-1], 0), 60)


@pytest.mark.parametrize("real", [100 * US, 1 * MS, 100 * MS])
@pytest.mark.parametrize("divisor", [3, 10, 100])
def test_samples_a_third_or_less_of_what_passed_are_not_believed(real, divisor):
    told = even(real // divisor)
    with pytest.raises(BoardError, match=r"'samples_ns' usually leaves .* between two"):
        checked(told, real - told)
    many = even(real // divisor, 7000)
    with pytest.raises(BoardError, match="nothing else ran in it"):
        checked(many, even(300, 7000), tail=7000 * real - int(many.sum()))


@pytest.mark.parametrize("share", [0.02, 0.05, 0.3])
def test_a_tail_that_is_left_out_is_not_believed(share):
    slow = np.arange(700) % round(1 / share) == 0
    with pytest.raises(BoardError, match=r"'samples_ns' leaves more than .* at \d+ places"):
        checked(even(1 * MS), np.where(slow, 5 * MS, 300))


def test_slow_empty_calls_excuse_nothing():
    with pytest.raises(BoardError, match=r"'empty_ns' is usually 30,000 ns, where 10,000 is very slow"):
        checked(even(40 * US), even(300 * US), empty=30 * US)
    with pytest.raises(BoardError, match=r"'samples_ns' holds 5,000 ns, but an empty call took 9,000 ns"):
        checked(even(5 * US), even(80 * US), empty=9 * US)
    with pytest.raises(BoardError, match=r"'samples_ns' is usually 5,000 ns, but an empty call took 9,000 ns"):
        checked(even(5 * US), even(80 * US), empty=np.where(np.arange(EMPTY_CALLS) == 0, 60, 9 * US))


def test_samples_packed_at_the_start_of_their_window_are_not_believed():
    """A lie of a hundredth that leaves no gap between the samples leaves the rest of the window empty."""
    real = even(1 * MS, 300)
    with pytest.raises(BoardError, match="nothing else ran in it"):
        checked(real // 100, even(300, 300), tail=int(real.sum()) - int(real.sum()) // 100)
    checked(even(100 * US, 50), even(300, 50), tail=90 * MS)  # a stall at the end of a short window


PACED = Plan(batch=1, warmup_s=0, min_s=0, max_s=60, min_samples=50, period_ns=10 * MS)


def test_a_paced_window_waits_between_its_samples_and_is_believed():
    window = checked(even(1 * MS), even(9 * MS), plan=PACED)
    assert window.period_ns == 10 * MS
    checked(even(25 * MS, 100), even(300, 100), plan=PACED)  # an engine that is too slow for its sensor
    with pytest.raises(BoardError, match="begins before its image was due"):
        checked(even(1 * MS), even(8 * MS), plan=PACED)
