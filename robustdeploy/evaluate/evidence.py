"""What an evaluation leaves for the report besides its raw outcomes: rows, diagnostics and the figures to draw."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from robustdeploy.core.complaint import complaint
from robustdeploy.core.model import Noun
from robustdeploy.core.reading import read_json
from robustdeploy.core.report import Diagnostic, Figures, Histogram, Measurement
from robustdeploy.core.subject import DENSE, FP32, TORCH, Subject
from robustdeploy.engine.lineage import remedy
from robustdeploy.errors import ArtifactError
from robustdeploy.evaluate.answers import answers_of, dense_answers
from robustdeploy.evaluate.latency import Latency
from robustdeploy.evaluate.outcomes import Outcomes
from robustdeploy.evaluate.samples import samples_of
from robustdeploy.onboard.types import Threat

Times = npt.NDArray[np.float64]
_BINS = 60


class EvaluationRows(Noun):
    """The content of ``rows.json``."""

    schema_version: Literal[2]
    measurements: tuple[Measurement, ...]
    diagnostics: tuple[Diagnostic, ...]
    figures: Figures


def read_rows(path: Path) -> EvaluationRows:
    """Return what an evaluation left in ``path``; what is damaged, edited or of another version is an ArtifactError."""
    again = remedy(path)
    try:
        found = read_json(path)
    except ArtifactError as problem:
        raise ArtifactError(f"{problem}; {again}") from problem
    if isinstance(found, dict) and "schema_version" not in found:
        raise ArtifactError(f"{path} was measured by an older version; {again}")
    try:
        return EvaluationRows.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"{path}: {place} {complaint(first, EvaluationRows)}, so it was edited; {again}") from error


def figures_from(
    outcomes: Outcomes, threat: Threat, classes: tuple[str, ...], latency: Latency | None, subject: Subject
) -> Figures:
    """Collect what the page draws of the board: times, answers by class, and sample images."""
    answers = {str(subject): answers_of(outcomes, classes)}
    if (dense := dense_answers(outcomes, classes)) is not None:
        answers[str(Subject(DENSE, FP32, TORCH))] = dense
    own, others = {}, {}
    if latency is not None and not latency.flaws:
        own = {str(subject): _histogram(latency.samples_ms)}
        if latency.fraction is not None:
            theirs = np.concatenate([other.window.samples_ns for _, other in latency.pairs])
            others = {str(subject): _histogram(theirs * 1e-6)}
    samples = tuple(samples_of(outcomes, threat, classes))
    return Figures(latency=own, dense_latency=others, answers=answers, samples=samples)


def _histogram(samples_ms: Times) -> Histogram:
    """Bins of equal ratio from the quickest sample to the slowest."""
    # A stall may take a thousand times as long as most calls; bins of equal width would put all others into one.
    low = max(float(samples_ms.min()), 1e-6)
    edges = np.geomspace(low, max(float(samples_ms.max()), low * 1.001), _BINS + 1)
    counts, _ = np.histogram(np.clip(samples_ms, edges[0], edges[-1]), edges)
    return Histogram(unit="ms", edges=tuple(edges.tolist()), counts=tuple(int(count) for count in counts))
