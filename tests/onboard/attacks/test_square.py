import numpy as np
import pytest

from robustdeploy.onboard.attacks.square import Square, plugin, square_side
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.draws import Draws
from robustdeploy.onboard.queries import Counted
from robustdeploy.onboard.types import pixels_from_bytes


def test_it_stays_in_the_box_and_counts_its_queries(net, subject, threat):
    images, labels = subject
    counted = Counted(net, len(images))
    found = Square(queries=60)(counted, images, labels, threat, Draws(3, np.arange(len(images))))
    low, high = threat.box(images)
    assert found.dtype == np.uint8
    assert ((low <= found) & (found <= high)).all()
    fooled = net(pixels_from_bytes(found)).argmax(1) != labels
    assert 0 < fooled.mean() < 1
    assert (counted.per_image[~fooled] == 60).all()
    assert (counted.per_image >= 1).all()
    assert counted.per_image.sum() == counted.total


def test_the_result_of_an_image_does_not_depend_on_its_batch(net, subject, threat):
    images, labels = (part[:40] for part in subject)
    ids = np.arange(40) + 1000
    attack = Square(queries=40)
    whole = attack(net, images, labels, threat, Draws(9, ids))
    order = np.random.default_rng(0).permutation(40)
    shuffled = Square(queries=40, batch=7)(net, images[order], labels[order], threat, Draws(9, ids[order]))
    np.testing.assert_array_equal(shuffled, whole[order])
    alone = np.concatenate([attack(net, images[[i]], labels[[i]], threat, Draws(9, ids[[i]])) for i in range(0, 40, 8)])
    np.testing.assert_array_equal(alone, whole[::8])
    other = attack(net, images, labels, threat, Draws(10, ids))
    assert (other != whole).any()


def test_more_queries_never_leave_a_higher_margin_and_break_more(net, subject, threat, robust):
    images, labels = subject
    draws = Draws(1, np.arange(len(images)))
    rates = [robust(Square(queries=q)(net, images, labels, threat, draws), labels) for q in (1, 20, 200)]
    assert rates[0] > rates[1] > rates[2]
    start = Square(queries=1)(net, images, labels, threat, draws)
    end = Square(queries=200)(net, images, labels, threat, draws)
    margins = [CLASSIFICATION.margin(net(pixels_from_bytes(found)), labels) for found in (start, end)]
    assert (margins[1] <= margins[0]).all()


def test_it_starts_with_vertical_stripes(net, subject, threat):
    images = np.full((6, 3, 8, 8), 128, np.uint8)

    def unmoved(pixels):
        return np.tile(np.float32([1, 0]), (len(pixels), 1))

    found = Square(queries=1)(unmoved, images, np.zeros(6, np.int64), threat, Draws(0, np.arange(6)))
    assert set(np.unique(found)) == {128 - 24, 128 + 24}
    assert (found == found[:, :, :1]).all()
    assert len(np.unique(found[:, :, 0], axis=0)) == 6


def test_only_images_that_are_not_fooled_are_asked_again(subject, threat):
    images, _ = subject
    asked = []

    def first_half_falls(pixels):
        asked.append(len(pixels))
        scores = np.zeros((len(pixels), 2), np.float32)
        scores[np.arange(len(pixels)), (np.arange(len(pixels)) < 5).astype(int)] = 1
        return scores

    Square(queries=2)(first_half_falls, images[:10], np.zeros(10, np.int64), threat, Draws(0, np.arange(10)))
    assert asked == [10, 5]


def test_the_side_follows_the_schedule_of_the_paper():
    sides = [square_side(step, 10_000, 0.8, 32, 32) for step in (1, 10, 11, 51, 201, 1001, 2001, 4001, 6001, 8001)]
    shares = [0.8, 0.8, *(0.8 / 2**k for k in range(1, 9))]
    assert sides == [max(1, round((share * 1024) ** 0.5)) for share in shares]
    assert square_side(2, 1000, 0.8, 32, 32) == square_side(20, 10_000, 0.8, 32, 32)
    assert square_side(1, 1000, 1.0, 8, 64) == 8


@pytest.mark.parametrize("wrong", [{"queries": 0}, {"p_init": 0.0}, {"p_init": 1.5}, {"batch": 0}])
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="square needs"):
        plugin(**wrong)


def test_its_label_says_the_budget():
    assert Square(queries=250).label == "square-250"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("queries", [50, 200])
def test_it_is_no_weaker_than_the_attack_of_art(net, subject, queries, threat, robust):
    from art.attacks.evasion import SquareAttack
    from art.estimators.classification import BlackBoxClassifierNeuralNetwork

    images, labels = subject
    theirs_asked = []

    def predict(pixels):
        theirs_asked.append(len(pixels))
        return net(pixels)

    estimator = BlackBoxClassifierNeuralNetwork(
        predict, images.shape[1:], 10, channels_first=True, clip_values=(0.0, 1.0)
    )
    np.random.seed(0)
    attack = SquareAttack(estimator, eps=threat.eps, max_iter=queries, nb_restarts=1, batch_size=512, verbose=False)
    theirs = attack.generate(pixels_from_bytes(images), np.eye(10)[labels])
    theirs = (net(theirs.astype(np.float32)).argmax(1) == labels).mean()
    counted = Counted(net, len(images))
    ours = robust(Square(queries=queries)(counted, images, labels, threat, Draws(0, np.arange(len(images)))), labels)
    assert counted.per_image.max() <= queries
    assert ours <= theirs + 0.02
