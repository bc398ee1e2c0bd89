"""The limit on latency: foretold beside measured, and a warning where it was missed."""

import pytest

from robustdeploy.core.records import LatencyBudgeted, LatencyTrial
from robustdeploy.report.latency_budget import latency_budget_diagnostics


def budgeted(*trials):
    made = tuple(LatencyTrial(foretold=foretold, measured=measured) for foretold, measured in trials)
    return LatencyBudgeted(target="host-cpu", limit=0.5, dense_us=700, foretold=0.49, trials=made)


def test_without_a_limit_there_is_nothing_to_tell():
    assert latency_budget_diagnostics(None) == ()


@pytest.mark.parametrize(
    ("trials", "level", "words"),
    [
        ([(0.49, 0.48)], "ok", "host-cpu: 48.0% measured of 49.0% foretold, in turns"),
        ([(0.49, 0.52), (0.47, 0.5)], "ok", "52.0% measured of 49.0% foretold, then 50.0% measured of 47.0% foretold"),
        ([(0.49, 0.52), (0.5, 0.51)], "warn", "no choice of channels that was measured meets it"),
        ([], "warn", "the profile foretells 49.0%, and the device was not asked"),
    ],
)
def test_what_was_foretold_stands_beside_what_was_measured(trials, level, words):
    (found,) = latency_budget_diagnostics(budgeted(*trials))
    assert found.level == level
    assert words in found.text
