import time

import numpy as np
import pytest

from robustdeploy.onboard.queries import MARKS, Counted, ask


def scores(images):
    return np.zeros((len(images), 2), np.float32)


def test_queries_are_charged_to_the_images_they_were_for():
    counted = Counted(scores, 4)
    pixels = np.zeros((3, 1, 2, 2), np.float32)
    ask(counted, pixels, np.array([0, 2, 2]))
    ask(counted, pixels[:1], np.array([3]))
    assert counted.total == 4
    assert counted.per_image.tolist() == [1, 0, 2, 1]


def test_an_attack_that_does_not_say_which_image_it_asks_for_has_unknown_counts_and_a_known_total():
    counted = Counted(scores, 2)
    ask(counted, np.zeros((2, 1, 2, 2), np.float32), np.array([0, 1]))
    counted(np.zeros((5, 1, 2, 2), np.float32))
    assert counted.total == 7
    assert counted.per_image.tolist() == [-1, -1]


def test_a_plain_model_can_be_asked_too():
    assert ask(scores, np.zeros((3, 1, 2, 2), np.float32), np.arange(3)).shape == (3, 2)


def test_the_time_of_a_call_is_shared_by_its_images_and_told_up_to_each_number_of_queries():
    def slow(images):
        time.sleep(0.02)
        return scores(images)

    counted = Counted(slow, 3)
    began = time.perf_counter_ns()
    for _ in range(3):  # 12 queries for the first image, 4 at a time, and 3 for the second
        ask(counted, np.zeros((5, 1, 2, 2), np.float32), np.array([0, 1, 0, 0, 0]))
    whole = time.perf_counter_ns() - began
    assert counted.per_image.tolist() == [12, 3, 0]
    assert counted.spent_ns.shape == (3, len(MARKS))
    assert 3 * 20e6 <= counted.spent_ns[:, -1].sum() <= whole
    # All shares are about alike, so the first ten queries took about ten twelfths of the time of all.
    assert counted.spent_ns[0, 0] / counted.spent_ns[0, 1] == pytest.approx(10 / 12, abs=0.05)
    assert counted.spent_ns[0, 1] / counted.spent_ns[1, 1] == pytest.approx(4, rel=0.01)
    counted(np.zeros((1, 1, 2, 2), np.float32))
    assert (counted.spent_ns == -1).all()
