from __future__ import annotations

import pytest

from robustdeploy.core.gate import Rule
from robustdeploy.core.records import Zeros
from robustdeploy.core.registry import FORMATS
from robustdeploy.core.subject import subject_from
from robustdeploy.report.judge import judge
from robustdeploy.report.nonzero import nonzero_note, nonzero_rows

SUBJECT = subject_from("pruned/fp32@host-cpu")
ZEROS = Zeros(macs=1000, nonzero_macs=250, nonzero_params=40, two_of_four=())


@pytest.fixture
def masked(make_report):
    """A report on a net whose shape is the dense one's and a quarter of whose MACs are by weights other than 0."""
    budget = make_report().budget.model_copy(
        update={"macs": 1000, "dense_macs": 1000, "params": 100, "dense_params": 100, "counts": {}}
    )
    return make_report(rows=tuple(nonzero_rows(ZEROS, budget, SUBJECT)), budget=budget)


def test_rows_say_what_is_left_and_that_a_dense_runtime_executes_all(masked):
    rows = {row.metric: row for row in masked.measurements}
    assert {name: row.value for name, row in rows.items()} == {
        "nonzero_ops_fraction": 0.25,
        "nonzero_params_fraction": 0.4,
    }
    assert rows["nonzero_ops_fraction"].conditions["runtime"] == "a dense runtime executes all MACs"
    assert (rows["nonzero_ops_fraction"].conditions["macs"], rows["nonzero_ops_fraction"].n) == (250, 1)


def test_a_rule_can_bound_what_is_left(masked):
    for limit, outcome in ((0.25, "PASS"), (0.24, "FAIL")):
        rule = Rule(id="RD-NZ-01", metric="nonzero_ops_fraction", at_most=limit)
        assert judge(masked.measurements, (), (rule,)).outcome == outcome


@pytest.mark.parametrize("name", ["md", "html"])
def test_pages_set_both_side_by_side(name, masked, make_report):
    note = "25.0 % of the dense net's MACs are by weights other than 0; a dense runtime executes all MACs, 100.0 %"
    assert nonzero_note(masked).startswith(note)
    assert note in FORMATS.build(name, {})(masked).replace("&#39;", "'")
    assert "dense runtime" not in FORMATS.build(name, {})(make_report())


def test_a_net_without_zeros_has_no_such_rows(report):
    assert list(nonzero_rows(None, report.budget, SUBJECT)) == []
    assert nonzero_note(report) == ""
