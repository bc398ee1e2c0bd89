import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from robustdeploy.evaluate.box import project, violations
from robustdeploy.onboard.types import Threat

SHAPE = (3, 1, 4, 4)
BYTES = arrays.arrays(np.uint8, SHAPE)
EPS = st.one_of(st.integers(1, 255).map(lambda k: k / 255), st.floats(1 / 255, 1))


@given(images=BYTES, proposals=BYTES, eps=EPS)
def test_what_is_projected_is_inside_and_as_near_as_can_be(images, proposals, eps):
    threat = Threat("linf", eps)
    found = project(images, proposals, threat)
    assert found.dtype == np.uint8
    assert violations(images, found, threat) == 0
    low = np.maximum(images.astype(int) - threat.levels, 0)
    high = np.minimum(images.astype(int) + threat.levels, 255)
    expected = np.minimum(np.maximum(proposals.astype(int), low), high)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(project(images, found, threat), found)


@given(images=BYTES, eps=EPS)
def test_a_radius_in_whole_grey_levels_never_exceeds_eps(images, eps):
    levels = Threat("linf", eps).levels
    assert levels / 255 <= eps + 1e-12
    assert (levels + 1) / 255 > eps


@settings(max_examples=50)
@given(images=BYTES, pixel=st.integers(0, 15), number=st.integers(0, 2), levels=st.integers(1, 100))
def test_one_pixel_one_level_too_far_is_a_violation(images, pixel, number, levels):
    threat = Threat("linf", levels / 255)
    moved = images.copy()
    old = int(images[number].flat[pixel])
    moved[number].flat[pixel] = old + levels + 1 if old + levels + 1 <= 255 else old - levels - 1
    assert violations(images, moved, threat) == 1
    moved[number].flat[pixel] = old + levels if old + levels <= 255 else old - levels
    assert violations(images, moved, threat) == 0


def test_wrap_around_is_seen():
    images, moved = np.zeros((1, 1, 1, 1), np.uint8), np.full((1, 1, 1, 1), 255, np.uint8)
    assert violations(images, moved, Threat("linf", 1 / 255)) == 1
    assert violations(images[:0], moved[:0], Threat("linf", 1 / 255)) == 0
