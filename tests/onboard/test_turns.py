import numpy as np
import pytest

from robustdeploy.errors import UsageError
from robustdeploy.onboard.turns import take_turns


class Clock:
    """Time that passes only while an engine runs; the board is slow in every second turn."""

    def __init__(self):
        self.now, self.order = 0, []

    def __call__(self):
        return self.now

    def engine(self, name, ns):
        def run(images):
            self.order.append(name)
            self.now += ns
            return np.zeros((len(images), 2), np.float32)

        return run


def test_each_turn_tells_the_quickest_call_and_all_calls_count():
    clock, images = Clock(), np.zeros((2, 1, 4, 4), np.float32)
    engines = [clock.engine("a", 1_000_000), clock.engine("b", 3_000_000)]
    quickest, queries = take_turns(engines, images, turns=4, turn_s=0.01, clock=clock)
    assert quickest.tolist() == [[1_000_000] * 4, [3_000_000] * 4]
    assert queries == 2 * len(clock.order)
    # They alternate, so that a slow minute meets both.
    changes = [name for name, before in zip(clock.order, ["", *clock.order[:-1]], strict=True) if name != before]
    assert changes == ["a", "b"] * 4


def test_one_call_is_made_even_where_it_takes_longer_than_the_turn():
    clock = Clock()
    quickest, queries = take_turns([clock.engine("a", 10**9)], np.zeros((1, 1, 4, 4), np.float32), 2, 0.01, clock)
    assert quickest.tolist() == [[10**9, 10**9]]
    assert queries == 4  # one before each that is timed


@pytest.mark.parametrize(("turns", "turn_s", "engines"), [(0, 0.1, 1), (1, 0, 1), (1, 0.1, 0), (10**6, 0.1, 1)])
def test_turns_that_cannot_be_taken_are_refused(turns, turn_s, engines):
    with pytest.raises(UsageError, match="cannot take"):
        take_turns([lambda images: images] * engines, np.zeros((1, 1, 4, 4), np.float32), turns, turn_s)
