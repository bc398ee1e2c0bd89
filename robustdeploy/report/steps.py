"""Steps: where accuracy is lost between the dense net in torch and what runs on a target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from robustdeploy.core.report import Measurement, Report
from robustdeploy.core.subject import DENSE, FP32, TORCH, Subject, subject_from
from robustdeploy.report.quantity import number


@dataclass(frozen=True)
class Step:
    """One step, and how the net stands after it."""

    name: str
    subject: str
    clean: Measurement | None
    worst: Measurement | None
    note: str = ""
    change: float | None = None
    """Of the worst case, against the step before, as a share."""


def chain_of(report: Report, subject: str) -> tuple[Step, ...]:
    """Return the steps to a deployed subject, those that were measured; fewer than two tell nothing and are none."""
    its, rows = subject_from(subject), report.measurements
    stations = [
        ("Dense net in torch", Subject(DENSE, FP32, TORCH)),
        ("Pruned, in torch", Subject(its.net, FP32, TORCH)),
        (f"In {its.precision}, its twin in torch", its.reference),
        (f"{'ONNX' if its.precision == FP32 else its.precision}, compiled, on {its.place}", its),
    ]
    steps: list[Step] = []
    # In full precision the twin is the net itself, and a dense net is no pruned one: the first name stands.
    named = {str(station): (name, station) for name, station in reversed(stations)}
    for name, station in reversed(named.values()):
        clean = _row(rows, str(station), "clean_accuracy", None)
        worst = _row(rows, str(station), "robust_accuracy", "worst")
        if clean is not None or worst is not None:
            steps.append(Step(name, str(station), clean, worst, "; ".join(_notes(report, station))))
    changed = [steps[0], *(_after(a, b) for a, b in pairwise(steps))] if len(steps) > 1 else []
    return tuple(changed)


def _after(before: Step, step: Step) -> Step:
    both = before.worst is not None and step.worst is not None
    change = step.worst.value - before.worst.value if both and step.worst and before.worst else None
    return Step(step.name, step.subject, step.clean, step.worst, step.note, change)


def _notes(report: Report, station: Subject) -> Iterator[str]:
    """Say how alike the step answers to the one before, where that was measured."""
    here = [row for row in report.measurements if row.subject == str(station)]
    for row in here:
        if row.metric == "parity_max_abs" and row.conditions.get("images") == "adversarial":
            yield f"exported, its scores differ by at most {number(row.value, 2)} on {row.n:,} images"
    agreement = _row(here, str(station), "top1_agreement", None)
    if agreement is not None:
        same = round(agreement.value * agreement.n)
        yield f"same label as in torch for {same:,} of {agreement.n:,} images"


def _row(
    rows: tuple[Measurement, ...] | list[Measurement], subject: str, metric: str, attack: str | None
) -> Measurement | None:
    fits = (row for row in rows if (row.subject, row.metric, row.attack) == (subject, metric, attack))
    return next(fits, None)
