"""Balls in every norm: integers decide what is inside, and rounding keeps what it can."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from robustdeploy.onboard.ball import outside, pulled_in, rounded
from robustdeploy.onboard.types import POWERS, Threat

SHAPE = (3, 1, 4, 4)
BYTES = arrays.arrays(np.uint8, SHAPE)
VALUES = arrays.arrays(np.float64, SHAPE, elements=st.floats(-50, 300))
THREATS = st.builds(Threat, st.sampled_from(["l2", "l1"]), st.floats(1 / 255, 8))


def sums(images, others, threat):
    moves = np.abs(images.astype(int) - others.astype(int)).reshape(len(images), -1)
    return (moves ** POWERS[threat.norm]).sum(1)


@given(images=BYTES, values=VALUES, threat=THREATS)
def test_what_is_rounded_lies_in_the_ball_and_on_the_way_to_what_was_asked(images, values, threat):
    found = rounded(images, values, threat)
    assert found.dtype == np.uint8
    assert (sums(images, found, threat) <= (255 * threat.eps * (1 + 1e-12)) ** POWERS[threat.norm]).all()
    assert not outside(images, found, threat).any()
    moved, asked = found.astype(int) - images, np.clip(values, 0, 255) - images
    assert (moved * asked >= 0).all()
    assert (np.abs(moved) <= np.ceil(np.abs(asked) + 1e-3)).all()
    np.testing.assert_array_equal(rounded(images, found, threat), found)


@given(images=BYTES, others=BYTES, threat=THREATS)
def test_eight_bits_that_are_inside_stay_as_they_are(images, others, threat):
    inside = sums(images, others, threat) <= threat.most
    np.testing.assert_array_equal(outside(images, others, threat), ~inside)
    found = rounded(images, others, threat)
    np.testing.assert_array_equal(found[inside], others[inside])


@pytest.mark.parametrize(
    ("norm", "eps", "most"),
    [
        ("l2", 128 / 255, 128**2),
        ("l2", 0.5, 16256),
        ("l2", 1 / 255, 1),
        ("l2", 1.7, 187922),
        ("l1", 12, 3060),
        ("l1", 0.1, 25),
        ("l1", 49 / 255, 49),
    ],
)
def test_the_radius_in_grey_levels_is_exact(norm, eps, most):
    threat = Threat(norm, eps)
    assert threat.most == most
    images = np.zeros((1, 1, 256, 256), np.uint8)
    full, rest = divmod(most, 1 if norm == "l1" else 4)
    moved = images.copy()
    moved.flat[:full] = 1 if norm == "l1" else 2
    moved.flat[full : full + rest] = 1
    assert not outside(images, moved, threat).any()
    moved.flat[-1] += 1
    assert outside(images, moved, threat).all()


@pytest.mark.parametrize(("norm", "eps", "kept"), [("l2", 0.5, 0.97), ("l2", 0.1, 0.8), ("l1", 12, 0.95)])
def test_little_of_a_perturbation_is_lost(norm, eps, kept):
    random, threat = np.random.default_rng(0), Threat(norm, eps)
    images = np.full((4, 3, 32, 32), 128, np.uint8)
    # As an attack on a linear net goes: in ℓ2 along the gradient, in ℓ1 at few pixels.
    slope = random.laplace(size=images.shape)
    moves = 10 * slope if norm == "l2" else 14 * slope * (np.abs(slope) > 3.0)
    found = rounded(images, images + moves, threat)
    gained = (slope * (found.astype(int) - images)).sum((1, 2, 3))
    best = pulled_in(np.abs(moves).reshape(4, -1), threat)
    assert (sums(images, found, threat) >= 0.99 * threat.most).all()
    assert (gained >= kept * (np.abs(slope).reshape(4, -1) * best).sum(1)).all()


def test_every_pixel_alike_keeps_its_share():
    """To the nearest level, a move by 2.31 levels would lose a seventh of its length."""
    images, threat = np.full((1, 3, 32, 32), 100, np.uint8), Threat("l2", 128 / 255)
    found = rounded(images, images + 50.0, threat)
    assert set(np.unique(found)) == {102, 103}
    assert sums(images, found, threat)[0] > 0.999 * threat.most


def test_none_and_no_pixel_at_all():
    none = np.zeros((0, 1, 4, 4), np.uint8)
    for norm in ("linf", "l2", "l1"):
        assert rounded(none, none, Threat(norm, 0.5)).shape == none.shape
        assert outside(none, none, Threat(norm, 0.5)).shape == (0,)


def test_other_radii_of_a_ball():
    assert Threat("linf", 0.5).scaled(4) == Threat("linf", 1.0)
    assert Threat("l2", 0.5).scaled(4) == Threat("l2", 2.0)
    assert [Threat("l2", eps).holds_more for eps in (0.9 / 255, 1 / 255)] == [False, True]
    assert [Threat(norm, 0.5).each(3072) for norm in ("linf", "l2", "l1")] == [127, 2, 1]
