import numpy as np

from robustdeploy.onboard.queries import Counted, ask


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
