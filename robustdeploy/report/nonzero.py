"""Nonzero costs: what a net has beside its zeros, as rows and in words, next to what a dense runtime executes."""

from __future__ import annotations

from collections.abc import Iterator

from robustdeploy.core.records import Zeros
from robustdeploy.core.report import BudgetLine, Measurement, Report
from robustdeploy.core.subject import Subject
from robustdeploy.report.quantity import quantity

DENSE_RUNTIME = "a dense runtime executes all MACs"


def nonzero_rows(zeros: Zeros | None, budget: BudgetLine, subject: Subject) -> Iterator[Measurement]:
    """Return rows of the export's ``zeros``, as fractions of the dense net's costs; none where no weight is 0."""
    if zeros is None:
        return
    macs, params = zeros.nonzero_macs, zeros.nonzero_params
    counts = "MACs by weights other than 0"
    yield _row(subject, "nonzero_ops_fraction", macs, budget.dense_macs, "macs", counts, DENSE_RUNTIME)
    dense_store = "a dense file holds all parameters"
    counts = "parameters beside the zeros among the weights of layers"
    yield _row(subject, "nonzero_params_fraction", params, budget.dense_params, "params", counts, dense_store)


def _row(subject: Subject, metric: str, nonzero: int, dense: int, unit: str, counts: str, but: str) -> Measurement:
    conditions = {"exact": True, "counts": counts, unit: nonzero, f"dense_{unit}": dense, "runtime": but}
    share = nonzero / dense
    return Measurement(metric=metric, subject=str(subject), value=share, unit="fraction", n=1, conditions=conditions)


def nonzero_note(report: Report) -> str:
    """Say what zeros among the weights do not save, for beside the operations; empty where no weight is 0."""
    row = next((row for row in report.measurements if row.metric == "nonzero_ops_fraction"), None)
    if row is None:
        return ""
    executed = quantity(report.budget.macs / report.budget.dense_macs, "fraction")
    return (
        f"{quantity(row.value, 'fraction')} of the dense net's MACs are by weights other than 0; {DENSE_RUNTIME}, "
        f"{executed}: these zeros save no operation and no time there."
    )
