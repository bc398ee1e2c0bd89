"""Omissions: checks that an evaluation was told not to make, so that no verdict stands without them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from robustdeploy.core.metrics import METRICS
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.records import NetRecord
from robustdeploy.core.report import Measurement, Omission, Override
from robustdeploy.core.subject import DENSE, Subject, subject_from


def omissions_of(
    recipe: Recipe,
    net: NetRecord,
    evaluation: Mapping[str, Any],
    rows: Sequence[Measurement],
    overrides: Sequence[Override] = (),
    reading: Mapping[str, Any] = {},
    beside: Collection[str] = (),
) -> Iterator[Omission]:
    """Say what was left out of an evaluation, by what it was given and by the rows it has.

    ``net`` is what is known of the trained net, ``evaluation`` holds the parameters of its evaluation, and
    ``overrides`` those of these that are not the recipe's. ``reading`` says what became of the test set's files, and
    ``beside`` names the nets that were measured by themselves.
    """
    if overrides:
        yield _of("settings", f"this is not the recipe's own evaluation: {'; '.join(map(str, overrides))}")
    target, settings = evaluation.get("target", {}), evaluation.get("evaluate", {})
    # Of the deployed net: a query attack that only asked the reference says nothing about the board.
    kinds = {row.kind for row in rows if row.metric == "robust_accuracy" and subject_from(row.subject).deployed}
    metrics = {row.metric for row in rows}
    nets = {subject_from(row.subject).net for row in rows}
    if "robust_accuracy_at_eps" not in metrics:
        yield _of("eps-curve", "robustness over eps was not measured, so an attack that does not work may go unnoticed")
    if not {"transfer", "twin"} & kinds:
        yield _of("gradient-attack", "no gradient attack was run")
    if "query" not in kinds:
        yield _of("query-attack", "no query attack was run, so hidden gradients may go unnoticed")
    # A limit above the size of the test set leaves nothing out.
    if (limit := settings.get("limit")) is not None and any(row.n >= limit for row in _of_images(rows)):
        yield _of("limit", f"only {limit:,} test images were used (evaluate.limit)")
    if left_out := reading.get("test_unreadable_skipped"):
        yield _of("unreadable", f"{left_out:,} test images could not be read and were left out")
    if not any(metric.startswith(("latency_ms.", "response_ms.", "throughput_")) for metric in metrics):
        why = "the target is emulated" if target.get("emulated") else "see latency-valid"
        yield _of("latency", f"no latency is told: {why}")
    if target.get("emulated"):
        yield _of("emulated", "the target is emulated, so no hardware was tested")
    if target.get("status") == "contract-tested":
        yield _of("contract-tested", "the target is contract-tested, not run on hardware by the makers of this tool")
    if target.get("backend", {}).get("name") == "null":
        yield _of("null-backend", "the null backend computes nothing, so no net was tested")
    if DENSE not in {*nets, *beside} and net.channels:
        yield _of("baseline", "no dense net was evaluated beside this one, so what pruning cost is not known")
    if net.uncounted:
        yield _of("operations", f"the operations of the net were not counted: {net.uncounted}")
    if "imported" in net.data:
        yield _of("training", "the net was trained elsewhere, so nothing is known of its training")
    elif not recipe.train.sentinel:
        yield _of("sentinel", "the training was not watched for catastrophic overfitting (train.sentinel)")


def untold_targets(names: Sequence[str]) -> Iterator[Omission]:
    """Say which of a run's targets a report leaves out, since it was asked for others."""
    if names:
        told = ", ".join(dict.fromkeys(names))
        yield _of(
            "targets", f"the run has other targets that are not told here: {told}; `robustdeploy report` tells of all"
        )


def _of(name: str, text: str) -> Omission:
    return Omission(id=name, text=text)


def _of_images(rows: Sequence[Measurement]) -> Iterator[Measurement]:
    """Rows whose ``n`` counts all test images that were used."""
    for row in rows:
        if row.metric in METRICS and METRICS[row.metric].support == "images" and row.unit == "fraction":
            yield row


def skipped_row(omissions: Sequence[Omission], subject: Subject) -> Measurement:
    """Return how many checks were left out, as a row, so that a rule can bound it."""
    conditions = {"exact": True, "counts": "checks that were left out", "checks": [each.id for each in omissions]}
    return Measurement(
        metric="checks_skipped", subject=str(subject), value=len(omissions), unit="checks", n=1, conditions=conditions
    )
