"""benchmarks/regressions.py: what it draws is what it says, and the gate finds a planted loss and seldom a lie."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import regressions


def test_what_is_drawn_flips_as_often_as_asked():
    before, after = regressions.drawn(np.random.default_rng(0), 200_000, 0.02, 0.1)
    assert (before & ~after).mean() == pytest.approx(0.06, abs=0.003)
    assert (after & ~before).mean() == pytest.approx(0.04, abs=0.003)


def test_a_planted_loss_is_found_and_none_is_seldom_called_one():
    lost = regressions.counted(5000, 12, 0.02, 0.05, ["0 pp", "5 pp"], 1)["outcomes"]
    assert lost == {"0 pp": [12, 0, 0], "5 pp": [0, 0, 12]}
    none = regressions.counted(5000, 12, 0.0, 0.03, ["0 pp", "1.5 pp"], 1)["outcomes"]
    assert none["0 pp"][0] <= 2
    assert none["1.5 pp"] == [0, 0, 12]


def test_more_loss_than_flips_cannot_be(capsys):
    assert regressions.main(["--flips", "0.01"]) == 2
    assert "--flips" in capsys.readouterr().err
