"""What every query attack owes whoever runs it, whatever it does."""

import numpy as np
import pytest

from robustdeploy.core.registry import QUERY_ATTACKS
from robustdeploy.onboard.ball import outside
from robustdeploy.onboard.draws import Draws
from robustdeploy.onboard.queries import Counted
from robustdeploy.onboard.types import Threat, pixels_from_bytes

NAMES = QUERY_ATTACKS.names()
THREATS = {"linf": Threat(eps=24 / 255), "l2": Threat("l2", 0.7), "l1": Threat("l1", 3.5)}
EVERY = [(name, norm) for name in NAMES for norm in getattr(QUERY_ATTACKS.get(name), "NORMS", ("linf",))]
# Each way into the search is shared by all norms, so one of them goes through every test.
CASES = [pytest.param(*case, marks=() if case[1] == "linf" else pytest.mark.exhaustive) for case in EVERY]
BY_LABELS = [case for case in CASES if QUERY_ATTACKS.get(case.values[0]).NEEDS == "labels"]
# Enough for each to break some of the images and not all of them.
QUERIES = 150


def made(name, **options):
    return QUERY_ATTACKS.build(name, {"queries": QUERIES, **options})


@pytest.fixture(scope="module")
def few(subject):
    return tuple(part[:60] for part in subject)


@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_it_stays_in_the_ball_within_its_queries_and_stops_where_an_image_fell(name, norm, net, few):
    images, labels = few if norm == "linf" else (part[:20] for part in few)
    threat = THREATS[norm]
    counted = Counted(net, len(images))
    found = made(name)(counted, images, labels, threat, Draws(3, np.arange(len(images))))
    assert found.dtype == np.uint8
    assert not outside(images, found, threat).any()
    fooled = net(pixels_from_bytes(found)).argmax(1) != labels
    assert 0 < fooled.mean() < 1
    assert counted.per_image.sum() == counted.total
    assert counted.per_image.min() >= 1
    assert counted.per_image.max() <= QUERIES
    assert (counted.per_image[fooled] < QUERIES).any()
    # With as many queries as it took, and no more, the same images fall to the same images.
    last = int(counted.per_image[fooled].max())
    again = made(name, queries=last)(net, images, labels, threat, Draws(3, np.arange(len(images))))
    if name != "square":  # its schedule follows the budget
        np.testing.assert_array_equal(again[fooled], found[fooled])


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_the_result_of_an_image_does_not_depend_on_its_block(name, norm, net, few):
    images, labels = (part[:24] for part in few)
    threat = THREATS[norm]
    ids = np.arange(24) + 1000
    whole = made(name)(net, images, labels, threat, Draws(9, ids))
    order = np.random.default_rng(0).permutation(24)
    shuffled = made(name, batch=7)(net, images[order], labels[order], threat, Draws(9, ids[order]))
    np.testing.assert_array_equal(shuffled, whole[order])
    for row in (0, 11, 23):
        alone = made(name)(net, images[[row]], labels[[row]], threat, Draws(9, ids[[row]]))
        np.testing.assert_array_equal(alone[0], whole[row])


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_an_image_that_is_wrong_already_costs_one_query(name, norm, net, few):
    images, labels = (part[:10] for part in few)
    threat = THREATS[norm]
    counted = Counted(net, 10)
    found = made(name)(counted, images, (labels + 1) % 10, threat, Draws(0, np.arange(10)))
    if name == "square":  # its first query is for the stripes
        return
    assert counted.per_image.tolist() == [1] * 10
    np.testing.assert_array_equal(found, images)


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_more_queries_break_more(name, norm, net, few, robust):
    images, labels = few
    threat = THREATS[norm]
    draws = Draws(1, np.arange(len(images)))
    rates = [robust(made(name, queries=q)(net, images, labels, threat, draws), labels) for q in (1, 100, 400)]
    assert rates[0] >= rates[1] > rates[2]


@pytest.mark.parametrize(("name", "norm"), BY_LABELS)
def test_an_attack_by_labels_looks_at_nothing_else(name, norm, net, few):
    images, labels = few
    threat = THREATS[norm]

    def labels_alone(pixels):
        return np.eye(10, dtype=np.float32)[net(pixels).argmax(1)]

    draws = Draws(5, np.arange(len(images)))
    by_scores = made(name)(net, images, labels, threat, draws)
    np.testing.assert_array_equal(made(name)(labels_alone, images, labels, threat, draws), by_scores)


def test_scores_that_are_hard_hide_from_square_what_labels_tell(net, few, threat, robust):
    images, labels = few

    def labels_alone(pixels):
        return np.eye(10, dtype=np.float32)[net(pixels).argmax(1)]

    draws = Draws(5, np.arange(len(images)))
    stands = {
        name: robust(made(name, queries=400)(labels_alone, images, labels, threat, draws), labels)
        for name in ("square", *(case.values[0] for case in BY_LABELS if case.values[1] == "linf"))
    }
    assert stands["rays"] < stands["square"] - 0.1
    assert {"rays", "hop-skip-jump"} <= set(stands)


@pytest.mark.parametrize("name", NAMES)
def test_its_label_says_the_budget_and_none_is_refused(name):
    assert made(name).label == f"{name}-{QUERIES}"
    with pytest.raises(ValueError, match="queries"):
        QUERY_ATTACKS.get(name)(queries=0)
    with pytest.raises(ValueError, match="batch"):
        QUERY_ATTACKS.get(name)(batch=0)


# A linear net's nearest wrong images are 20 to 22 levels away here in ℓ∞, and 160 to 170 in ℓ2. With its queries each
# attack finds one within:
FOUND_WITHIN = {
    "linf": {"square": 24, "nes": 24, "simba": 22, "rays": 22, "hop-skip-jump": 26},
    "l2": {"square": 250, "hop-skip-jump": 200, "boundary": 220, "surfree": 300},
}


@pytest.mark.parametrize(("name", "norm"), [case for case in EVERY if case[1] != "l1"])
def test_a_linear_net_falls_where_the_closed_form_says_and_nowhere_before(name, norm):
    random = np.random.default_rng(2)
    weights = random.normal(size=64)
    images = random.integers(100, 156, (12, 1, 8, 8)).astype(np.uint8)
    moved = images.reshape(12, 64) / 255 @ weights
    # Each image stands some levels away from the border, and none of them near an end of the range of pixels.
    dual = np.abs(weights).sum() if norm == "linf" else np.linalg.norm(weights)
    near = 20 if norm == "linf" else 160
    offset = moved - dual * near * (1.025 + np.arange(12) / 240) / 255

    def alone(row):
        def score(pixels):
            margin = pixels.reshape(len(pixels), 64) @ weights - offset[row]
            return np.stack([margin, np.zeros(len(pixels))], 1).astype(np.float32)

        return score

    fell = {}
    # Cosines are bent by the box, and low ones alone know little of weights that are noise.
    options = {"simba": {"basis": "pixel"}, "surfree": {"band": 1.0}}.get(name, {})
    rows, queries = (range(12), 1500) if norm == "linf" else (range(0, 12, 4), 900)
    for levels in (near, FOUND_WITHIN[norm][name]):
        threat = Threat(norm, levels / 255)
        fell[levels] = 0
        for row in rows:
            image, label = images[[row]], np.zeros(1, np.int64)
            found = made(name, queries=queries, **options)(alone(row), image, label, threat, Draws(4, np.array([row])))
            fell[levels] += int(alone(row)(pixels_from_bytes(found)).argmax(1)[0] == 1)
    assert list(fell.values()) == [0, len(rows)]
