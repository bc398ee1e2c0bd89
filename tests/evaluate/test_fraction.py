"""Fraction: the interval of a ratio of times holds the true one as often as it says."""

import numpy as np
import pytest

from robustdeploy.evaluate.fraction import LEAST, fraction_of


def test_what_slows_both_sides_down_cancels():
    found = fraction_of([1.0, 2.0, 3.0, 10.0, 1.0, 4.0], [2.0, 4.0, 6.0, 20.0, 2.0, 8.0])
    assert (found.value, found.low, found.high, found.n) == (0.5, 0.5, 0.5, 6)


@pytest.mark.parametrize("count", [6, 9, 10, 25, 60])
def test_the_interval_holds_the_true_fraction_in_95_of_100_cases(count):
    draw = np.random.default_rng(count)
    held = 0
    for _ in range(2000):
        busy = draw.lognormal(0, 1, count)
        times, others = busy * draw.lognormal(np.log(0.7), 0.1, count), busy * draw.lognormal(0, 0.1, count)
        found = fraction_of(times.tolist(), others.tolist())
        held += found.low <= 0.7 <= found.high
    assert held / 2000 > 0.94
    # Not by being endless: with 60 pairs it is narrow.
    if count == 60:
        assert found.high - found.low < 0.1


def test_too_few_pairs_have_no_interval():
    with pytest.raises(ValueError, match="5 pairs of runs are too few"):
        fraction_of([1.0] * (LEAST - 1), [1.0] * (LEAST - 1))
    with pytest.raises(ValueError, match="zip"):
        fraction_of([1.0] * 7, [1.0] * 6)
