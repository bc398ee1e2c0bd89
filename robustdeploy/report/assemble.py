"""Assemble ``report.json`` from the sealed stages of a run, and judge it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from robustdeploy.core.amount import absolute
from robustdeploy.core.artifact import Sealed
from robustdeploy.core.complaint import complaint
from robustdeploy.core.files import canonical_json, sha256_of_file, sha256_of_text
from robustdeploy.core.ledger import utc_now
from robustdeploy.core.manifest import producer
from robustdeploy.core.metrics import METRICS
from robustdeploy.core.plain import plain
from robustdeploy.core.reading import read_json
from robustdeploy.core.recipe import Budget, Recipe
from robustdeploy.core.report import BudgetLine, ChannelCount, Figures, Measurement, Report
from robustdeploy.core.settings import overrides
from robustdeploy.cost import COUNTED
from robustdeploy.errors import ArtifactError
from robustdeploy.evaluate.evidence import EvaluationRows
from robustdeploy.report.collapse import collapse_diagnostics
from robustdeploy.report.judge import judge
from robustdeploy.report.nonzero import nonzero_rows
from robustdeploy.report.omissions import omissions_of, skipped_row


def assemble(name: str, target: str, recipe: Recipe, train: Sealed, export: Sealed, evaluation: Sealed) -> Report:
    """Put everything a report says together; nothing is measured here."""
    rows = _rows(evaluation.folder / "rows.json")
    budget = _budget(train.manifest.facts, export.manifest.facts)
    channels = tuple(ChannelCount(**channel) for channel in train.manifest.facts["channels"])
    zeros = export.manifest.facts.get("zeros")
    costs = (*_cost_rows(budget), *nonzero_rows(zeros, budget))
    removes_channels = "nonzero_macs" not in train.manifest.facts
    measurements = (*rows.measurements, *(_with_limit(row, recipe.budget, budget, removes_channels) for row in costs))
    used = evaluation.manifest.parameters
    changed = overrides(recipe.evaluate, used.get("evaluate", {}))
    reading = evaluation.manifest.facts.get("reading", {})
    omissions = tuple(omissions_of(recipe, train.manifest.facts, used, measurements, changed, reading))
    measurements = (*measurements, skipped_row(omissions))
    diagnostics = (*rows.diagnostics, *collapse_diagnostics(train.manifest.facts))
    return Report(
        name=name,
        target=target,
        evaluation=evaluation.folder.name,
        overrides=changed,
        created=utc_now().isoformat(timespec="seconds"),
        producer=producer(),
        data={
            **train.manifest.facts["data"],
            "test": evaluation.manifest.facts["n"],
            **reading,
        },
        subject=_subject(recipe, train, export, evaluation),
        threat=recipe.threat,
        budget=budget,
        board=_mapping(evaluation.folder / "facts.json"),
        measurements=measurements,
        diagnostics=diagnostics,
        omissions=omissions,
        figures=Figures(channels=channels, latency=rows.figures.latency, samples=rows.figures.samples),
        rules=recipe.gate,
        verdict=judge(measurements, diagnostics, recipe.gate, omissions),
    )


def _budget(train: Mapping[str, Any], export: Mapping[str, Any]) -> BudgetLine:
    names = (name for name in BudgetLine.model_fields if name in train and name != "counts")
    return BudgetLine(**{name: train[name] for name in names}, counts=export["counts"])


def _cost_rows(budget: BudgetLine) -> Iterator[Measurement]:
    """Return what the compact net costs, as numbers and as fractions of the dense net's, so that rules can bound it."""
    yield from _cost_pair("ops", "MACs", COUNTED, budget.macs, budget.dense_macs)
    yield from _cost_pair("params", "params", "all parameters of the net", budget.params, budget.dense_params)
    if budget.memory_bytes is not None and budget.dense_memory_bytes is not None:
        counts = "feature maps that exist at once, in float32 for one image, as the net's layers run in order"
        yield from _cost_pair("activation_memory", "bytes", counts, budget.memory_bytes, budget.dense_memory_bytes)


def _cost_pair(metric: str, unit: str, counts: str, compact: int, dense: int) -> Iterator[Measurement]:
    for name, value, its in ((metric, compact, unit), (f"{metric}_fraction", compact / dense, "fraction")):
        conditions = {"exact": True, "counts": counts, unit.lower(): compact, f"dense_{unit.lower()}": dense}
        yield Measurement(metric=name, where="board", value=value, unit=its, n=1, conditions=conditions)


def _with_limit(row: Measurement, wanted: Budget, found: BudgetLine, removes_channels: bool) -> Measurement:
    """Note on a cost what the budget allows of it. Where no channel is removed, the budget is for what is not zero."""
    metric = METRICS[row.metric]
    # A net that no budget asks to prune is held against its own dense cost.
    amount = wanted.amounts.get(str(metric.limited_by)) if wanted.amounts else 1.0
    counts_zeros = not row.metric.startswith("nonzero_")
    if metric.limited_by is None or amount is None or counts_zeros != removes_channels:
        return row
    dense = {"ops": found.dense_macs, "params": found.dense_params, "memory": found.dense_memory_bytes or 0}
    whole = dense[str(metric.limited_by)]
    # A fraction stays the number that was given: over and back again it might end a digit lower.
    share = amount if amount <= 1 else amount / whole
    limit = share if metric.unit == "fraction" else absolute(amount, whole)
    return row.model_copy(update={"conditions": {**row.conditions, "budget": limit}})


def _subject(recipe: Recipe, train: Sealed, export: Sealed, evaluation: Sealed) -> dict[str, str]:
    return {
        "recipe": sha256_of_text(canonical_json(plain(recipe))),
        "net": train.artifact("model.safetensors").sha256,
        "onnx": export.artifact("model.onnx").sha256,
        "engine": evaluation.manifest.facts["engine"],
        "bundle": export.artifact("bundle.zip").sha256,
        "agent": evaluation.manifest.inputs["agent"],
        "outcomes": evaluation.artifact("outcomes.npz").sha256,
        "training manifest": sha256_of_file(train.folder / "manifest.json"),
        "export manifest": sha256_of_file(export.folder / "manifest.json"),
        "evaluation manifest": sha256_of_file(evaluation.folder / "manifest.json"),
    }


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except ArtifactError as problem:
        raise ArtifactError(f"{problem}; run `robustdeploy evaluate --force` again") from problem


def _mapping(path: Path) -> dict[str, Any]:
    found = _json(path)
    if not isinstance(found, dict):
        raise ArtifactError(
            f"{path} holds no facts by name, so it was edited; run `robustdeploy evaluate --force` again"
        )
    return found


def _rows(path: Path) -> EvaluationRows:
    try:
        return EvaluationRows.model_validate(_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ArtifactError(
            f"{path}: {place} {complaint(first, EvaluationRows)}, so it was edited; run "
            "`robustdeploy evaluate --force` again"
        ) from error
