"""The table of a sweep: means over seeds, and which settings no other one beats."""

import pytest

from robustdeploy.core.gate import Outcome
from robustdeploy.core.report import Measurement
from robustdeploy.sweep.cells import Cell
from robustdeploy.sweep.picture import picture, styles_of
from robustdeploy.sweep.table import COSTS, ROBUST, Row, Table, means_of

LATENCY, OPS, ENERGY = COSTS


def row(ops, seed, robust, ms, subject="pruned/fp32@here", **more):
    found = {"ops": (float(ops), OPS), "worst": (robust, ROBUST), "p50": (ms, LATENCY)}
    rows = {
        name: Measurement(metric=figure.metric, subject=subject, value=value, unit=figure.unit, n=100)
        for name, (value, figure) in found.items()
        if value is not None
    }
    settings = {"budget.ops": ops, "seed": str(seed), **more}
    return Row(Cell(name=f"ops{ops}-seed{seed}", settings=settings), subject, Outcome.PASS, 0, rows)


def table(*rows):
    return Table(rows, means_of(rows), {})


def test_seeds_of_one_setting_are_one_mean_with_its_least_and_largest():
    (one, other) = table(row("0.5", 0, 0.6, 2.0), row("0.5", 1, 0.7, 4.0), row("0.3", 0, 0.5, 1.0)).means
    assert one.settings == {"budget.ops": "0.5"}
    assert one.cells == ("ops0.5-seed0", "ops0.5-seed1")
    assert one.values["worst"] == pytest.approx(0.65)
    assert one.spread["p50"] == (2.0, 4.0)
    assert other.spread["worst"] == (0.5, 0.5)


def test_a_setting_that_costs_more_and_keeps_less_is_beaten():
    found = table(row("0.7", 0, 0.7, 3.0), row("0.5", 0, 0.6, 4.0), row("0.3", 0, 0.5, 1.0))
    assert found.unbeaten["p50"] == {0, 2}
    # By operations each of the three keeps more than the one below.
    assert found.unbeaten["ops"] == {0, 1, 2}


def test_equals_do_not_beat_each_other_and_targets_are_apart():
    found = table(row("0.7", 0, 0.6, 2.0), row("0.5", 0, 0.6, 2.0), row("0.3", 0, 0.9, 1.0, "pruned/fp32@there"))
    assert found.unbeaten["p50"] == {0, 1, 2}


def test_what_has_no_latency_is_in_no_picture_of_it():
    found = table(row("0.7", 0, 0.6, None), row("0.5", 0, 0.6, None))
    assert found.unbeaten["p50"] == frozenset()
    assert picture(found, LATENCY, styles_of(found)) == picture(found, ENERGY, styles_of(found)) == ""
    assert "ops 0.5" in picture(found, OPS, styles_of(found))
    # A mean of one seed alone would stand beside one of two as if it were as much.
    (mean,) = table(row("0.5", 0, 0.6, 2.0), row("0.5", 1, 0.6, None)).means
    assert "p50" not in mean.values


@pytest.mark.parametrize("robust", [0.0, 1.0, 0.5])
def test_a_picture_of_one_run_or_of_equal_ones_has_an_axis(robust):
    found = table(row("0.5", 0, robust, 1.0), row("0.3", 0, robust, 1.0))
    assert "nan" not in picture(found, LATENCY, styles_of(found))
