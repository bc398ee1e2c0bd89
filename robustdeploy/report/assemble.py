"""Assemble ``report.json`` from the sealed stages of a run, and judge it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustdeploy.core.artifact import Sealed
from robustdeploy.core.files import canonical_json, sha256_of_file, sha256_of_text
from robustdeploy.core.ledger import utc_now
from robustdeploy.core.manifest import producer
from robustdeploy.core.plain import plain
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.report import BudgetLine, ChannelCount, Figures, Measurement, Report
from robustdeploy.errors import ArtifactError
from robustdeploy.evaluate.evidence import EvaluationRows
from robustdeploy.report.judge import judge


def assemble(name: str, target: str, recipe: Recipe, train: Sealed, export: Sealed, evaluation: Sealed) -> Report:
    """Put everything a report says together; nothing is measured here."""
    rows = EvaluationRows.model_validate(_json(evaluation.folder / "rows.json"))
    budget = _budget(train.manifest.facts, export.manifest.facts)
    channels = tuple(ChannelCount(**channel) for channel in train.manifest.facts["channels"])
    measurements = (*rows.measurements, _ops_row(budget))
    return Report(
        name=name,
        target=target,
        created=utc_now().isoformat(timespec="seconds"),
        producer=producer(),
        data={**train.manifest.facts["data"], "test": evaluation.manifest.facts["n"]},
        subject=_subject(recipe, train, export, evaluation),
        threat=recipe.threat,
        budget=budget,
        board=_json(evaluation.folder / "facts.json"),
        measurements=measurements,
        diagnostics=rows.diagnostics,
        figures=Figures(channels=channels, latency=rows.figures.latency, samples=rows.figures.samples),
        rules=recipe.gate,
        verdict=judge(measurements, rows.diagnostics, recipe.gate),
    )


def _budget(train: Mapping[str, Any], export: Mapping[str, Any]) -> BudgetLine:
    names = ("ops_target", "dense_macs", "macs", "params", "dense_params")
    return BudgetLine(**{name: train[name] for name in names}, counts=export["counts"])


def _ops_row(budget: BudgetLine) -> Measurement:
    return Measurement(
        metric="ops_fraction",
        where="board",
        value=budget.macs / budget.dense_macs,
        unit="fraction",
        n=1,
        conditions={"exact": True, "counts": "MACs of convolution and linear layers", "macs": budget.macs},
    )


def _subject(recipe: Recipe, train: Sealed, export: Sealed, evaluation: Sealed) -> dict[str, str]:
    return {
        "recipe": sha256_of_text(canonical_json(plain(recipe))),
        "net": train.artifact("model.safetensors").sha256,
        "onnx": export.artifact("model.onnx").sha256,
        "engine": evaluation.manifest.facts["engine"],
        "bundle": export.artifact("bundle.zip").sha256,
        "agent": export.artifact("agent.pyz").sha256,
        "outcomes": evaluation.artifact("outcomes.npz").sha256,
        "training manifest": sha256_of_file(train.folder / "manifest.json"),
        "evaluation manifest": sha256_of_file(evaluation.folder / "manifest.json"),
    }


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as problem:
        raise ArtifactError(
            f"{path} cannot be read ({problem}); run `robustdeploy evaluate --force` again"
        ) from problem
