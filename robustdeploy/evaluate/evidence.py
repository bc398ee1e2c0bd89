"""What an evaluation leaves for the report besides its raw outcomes: rows, diagnostics and the figures to draw."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import ValidationError

from robustdeploy.core.complaint import complaint
from robustdeploy.core.model import Noun
from robustdeploy.core.reading import read_json
from robustdeploy.core.report import Diagnostic, Figures, Histogram, Measurement, Sample
from robustdeploy.core.subject import Subject
from robustdeploy.engine.lineage import remedy
from robustdeploy.errors import ArtifactError
from robustdeploy.evaluate.latency import Latency
from robustdeploy.evaluate.outcomes import Outcomes
from robustdeploy.onboard.types import Bytes, Threat

SAMPLES = 8


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
    """Collect what the page draws of the board: the latency histogram and sample images."""
    timed = latency is not None and not latency.flaws
    histograms = {str(subject): _histogram(latency.samples_ms)} if latency is not None and timed else {}
    return Figures(latency=histograms, samples=tuple(_samples(outcomes, threat, classes)))


def _histogram(samples_ms: np.ndarray, bins: int = 40) -> Histogram:
    """Bins of equal width up to the 99.5th percentile; the last one holds everything above it."""
    # One stall of a hundred milliseconds would press all other bars into one.
    edge = float(np.quantile(samples_ms, 0.995))
    low = float(samples_ms.min())
    counts, edges = np.histogram(np.minimum(samples_ms, edge), bins=bins, range=(low, max(edge, low + 1e-9)))
    return Histogram(unit="ms", edges=tuple(edges.tolist()), counts=tuple(int(count) for count in counts))


def _samples(outcomes: Outcomes, threat: Threat, classes: tuple[str, ...]) -> Iterator[Sample]:
    """Show, in turn over the attacks, images that were right before: first those that an attack broke."""
    # The same image under several attacks would take the room of other examples.
    taken: set[int] = set()
    if not outcomes.attacks:
        return
    for turn in range(SAMPLES):
        attack = outcomes.attacks[turn % len(outcomes.attacks)]
        right = outcomes.before(attack, "board")
        broken = np.flatnonzero(right & (attack.board != outcomes.labels))
        stood = np.flatnonzero(right & (attack.board == outcomes.labels))
        free = [int(i) for i in (*broken, *stood) if int(i) not in taken]
        if not free:
            continue
        index = free[0]
        taken.add(index)
        clean, adversarial = outcomes.images[index], attack.images[index]
        yield Sample(
            attack=attack.label,
            label=classes[int(outcomes.labels[index])],
            clean_prediction=classes[int(outcomes.board_clean[index])],
            adversarial_prediction=classes[int(attack.board[index])],
            clean_png=_png(clean),
            adversarial_png=_png(adversarial),
            difference_png=_png(_difference(clean, adversarial, threat)),
        )


def _difference(clean: Bytes, adversarial: Bytes, threat: Threat) -> Bytes:
    """Scale the perturbation so that ±eps, in ℓ2 and ℓ1 its largest change, spans black to white around mid-grey."""
    change = adversarial.astype(np.float32) - clean.astype(np.float32)
    largest = threat.levels if threat.norm == "linf" else max(1.0, float(np.abs(change).max()))
    # Drawn as it is, a change of eight levels cannot be seen.
    grey: Bytes = np.clip(127.5 + change * (127.5 / largest), 0, 255).round().astype(np.uint8)
    return grey


def _png(image: Bytes) -> str:
    """Return one C×H×W image as base64 PNG."""
    picture = Image.fromarray(image[0]) if len(image) == 1 else Image.fromarray(image.transpose(1, 2, 0))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
