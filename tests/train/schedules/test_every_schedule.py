"""Every schedule of the learning rate, against its formula."""

from __future__ import annotations

import math

import pytest

from robustdeploy.core.registry import SCHEDULES
from robustdeploy.errors import RecipeError

PLACES = [(step + 1) / 101 for step in range(100)]


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_a_share_of_the_peak_at_every_step(name):
    schedule = SCHEDULES.build(name, {})
    assert all(0 < schedule(place) <= 1 for place in PLACES)
    assert max(map(schedule, PLACES)) > 0.98


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("one-cycle", {}, lambda t: 1 - abs(2 * t - 1)),
        ("constant", {}, lambda t: 1.0),
        ("constant", {"warmup": 0.2}, lambda t: min(1.0, t / 0.2)),
        ("cosine", {}, lambda t: math.cos(math.pi * t / 2) ** 2),
        ("cosine", {"warmup": 0.5}, lambda t: 2 * t if t < 0.5 else math.cos(math.pi * (t - 0.5)) ** 2),
        ("multi-step", {}, lambda t: 1.0 if t < 0.5 else 0.1 if t < 0.75 else 0.01),
        ("multi-step", {"milestones": [0.3], "factor": 0.5}, lambda t: 1.0 if t < 0.3 else 0.5),
        ("multi-step", {"milestones": []}, lambda t: 1.0),
    ],
)
def test_rates_are_those_of_the_formula(name, options, expected):
    schedule = SCHEDULES.build(name, options)
    assert [schedule(place) for place in PLACES] == pytest.approx([expected(place) for place in PLACES])


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("cosine", {"warmup": 1.0}, "warmup: must be at least 0 and below 1"),
        ("constant", {"warmup": -0.1}, "warmup: must be at least 0"),
        ("multi-step", {"milestones": [0.5, 0.2]}, "milestones must be shares"),
        ("multi-step", {"milestones": [1.0]}, "milestones must be shares"),
        ("multi-step", {"factor": 0.0}, "factor: must be above 0"),
    ],
)
def test_senseless_options_are_refused(name, options, said):
    with pytest.raises(RecipeError, match=said):
        SCHEDULES.build(name, options)
