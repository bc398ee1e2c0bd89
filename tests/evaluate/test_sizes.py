"""How many images a statement takes, held against simulation and against the interval itself."""

import numpy as np
import pytest

from robustdeploy.evaluate.intervals import clopper_pearson, mcnemar_exact
from robustdeploy.evaluate.sizes import images_for_drop, images_for_interval, power


@pytest.mark.parametrize(("half_width", "share"), [(0.02, 0.5), (0.05, 0.8), (0.1, 0.5), (0.03, 1.0)])
def test_that_many_images_give_the_interval_and_one_fewer_does_not(half_width, share):
    n = images_for_interval(half_width, share)

    def reach(count):
        right = round(share * count)
        low, high = clopper_pearson(right, count)
        return max(high - right / count, right / count - low)

    assert reach(n) <= half_width < reach(n - 1)


def test_one_half_is_the_widest_case():
    assert all(images_for_interval(0.03) >= images_for_interval(0.03, share) for share in (0.0, 0.2, 0.7, 1.0))


@pytest.mark.parametrize(
    ("n", "drop", "gained"), [(394, 0.02, 0.0), (500, 0.03, 0.02), (60, 0.15, 0.05), (5, 0.3, 0.0)]
)
def test_power_is_how_often_the_test_alarms(n, drop, gained):
    random, trials = np.random.default_rng(0), 2000
    drawn = random.random((trials, n))
    lost, won = drawn < drop + gained, drawn >= 1 - gained
    pairs = zip(won, lost, strict=True)
    seen = np.mean([mcnemar_exact(~one, ~other) < 0.05 and one.sum() < other.sum() for one, other in pairs])
    # Four standard errors of 2,000 trials.
    assert power(n, drop, gained) == pytest.approx(seen, abs=4 * 0.5 / trials**0.5)


def test_a_drop_takes_more_images_the_smaller_it_is_and_the_more_else_changes():
    sizes = [images_for_drop(drop) for drop in (0.1, 0.03, 0.01)]
    assert sizes == sorted(sizes)
    assert power(sizes[1], 0.03) >= 0.8 > power(sizes[1] - 1, 0.03)
    assert images_for_drop(0.03, gained=0.03) > images_for_drop(0.03)


def test_sizes_that_cannot_be_are_refused():
    for wrong in (0.0, 0.5, -0.1):
        with pytest.raises(ValueError, match=r"a size lies between 0 and 0\.5"):
            images_for_interval(wrong)
    with pytest.raises(ValueError, match="more images would change than there are"):
        images_for_drop(0.4, gained=0.4)
    with pytest.raises(ValueError, match="more than 16,777,216 images would be needed"):
        images_for_interval(1e-5)
