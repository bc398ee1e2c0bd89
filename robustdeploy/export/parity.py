"""Parity: how far ONNX Runtime's scores are from torch's, measured on real images and written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustdeploy.core.records import Parity
from robustdeploy.core.registry import BACKENDS
from robustdeploy.core.report import Measurement
from robustdeploy.core.subject import Subject
from robustdeploy.cost.memory import images_at_once
from robustdeploy.cost.module import evaluating
from robustdeploy.data.images import pixels
from robustdeploy.errors import ArtifactError
from robustdeploy.nets.graph import answers_of
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.types import Bytes, Scores, pixels_from_bytes

DISAGREEMENT_LIMIT = 0.01
"""Share of images whose label may differ before the export counts as broken; near-ties do flip."""


def check_finite(net: nn.Module, images: Bytes) -> None:
    """Raise an ArtifactError for a net whose scores of 8-bit ``images`` are not all finite."""
    wrong = ~np.isfinite(_torch_scores(net, torch.from_numpy(images))).all(1)
    if not wrong.any():
        return
    torn = [name for name, values in net.named_parameters() if not bool(torch.isfinite(values).all())]
    why = f"; its weights {torn[0]} are not finite" if torn else "; all of its weights are finite"
    raise ArtifactError(
        f"the net gives scores that are not finite (NaN or infinity) for {wrong.sum()} of {len(images)} held-out "
        f"images, so nothing was exported{why}. Train it again with a lower train.lr, or look in the net for a "
        "division by 0 or a logarithm of 0"
    )


def measure_parity(
    net: nn.Module, onnx_file: Path, clean: Bytes, adversarial: Bytes, limit: float = DISAGREEMENT_LIMIT
) -> tuple[Parity, Scores]:
    """Score both sets with torch and with ONNX Runtime; return the gaps and the runtime's scores of ``clean``.

    The runtime is given one image at a time, as a camera would, and then all of them together. Raises ArtifactError
    when more than ``limit`` of the labels differ: the file then is not the net, or depends on what else is in a batch.
    """
    backend: Any = BACKENDS.build("onnxruntime", {})
    gaps, agreements, reference = [], [], []
    # At least two: with one image no dependence on neighbours could show.
    together = max(2, images_at_once(net, (clean.shape[1], clean.shape[2], clean.shape[3]), len(clean)))
    model = backend.load(onnx_file)
    # Adversarial images lie near decisions, where small differences of scores change labels first.
    for images in (clean, adversarial):
        pixels = pixels_from_bytes(images)
        # A batch that was frozen into the graph shows only for another size than the one it was exported with.
        theirs = np.concatenate([model(pixels[at : at + 1]) for at in range(len(pixels))])
        ours = _torch_scores(net, torch.from_numpy(images))
        if not (np.isfinite(theirs).all() and np.isfinite(ours).all()):
            who = "torch and ONNX Runtime" if not np.isfinite(ours).all() else "ONNX Runtime alone"
            raise ArtifactError(
                f"{onnx_file.name} gives scores that are not finite (NaN or infinity), by {who}: it was not kept"
            )
        batches = np.array_split(pixels, -(-len(pixels) // together))
        _check_independent(onnx_file, theirs, np.concatenate([model(batch) for batch in batches]))
        gaps.append(float(np.abs(theirs - ours).max()))
        agreements.append(float(CLASSIFICATION.right(theirs, CLASSIFICATION.predictions(ours)).mean()))
        reference.append(theirs)
    # Labels and not scores: how large a gap is harmless depends on the span of the logits.
    if min(agreements) < 1 - limit:
        raise ArtifactError(
            f"{onnx_file.name} labels {1 - min(agreements):.1%} of {len(clean)} images otherwise than the net it was "
            f"exported from (scores up to {max(gaps):.2g} apart); the export is broken and was not kept"
        )
    version = backend.probe().version
    return Parity(
        runtime=f"onnxruntime {version}",
        n=len(clean),
        max_abs_clean=gaps[0],
        max_abs_adversarial=gaps[1],
        agreement_clean=agreements[0],
        agreement_adversarial=agreements[1],
    ), reference[0]


def _check_independent(onnx_file: Path, alone: Scores, together: Scores) -> None:
    moved = ~CLASSIFICATION.right(alone, CLASSIFICATION.predictions(together))
    if moved.mean() > DISAGREEMENT_LIMIT:
        gap = np.abs(alone - together).max()
        raise ArtifactError(
            f"{onnx_file.name} labels {moved.mean():.1%} of {len(moved)} images otherwise alone than beside others "
            f"(scores up to {gap:.2g} apart), though the net it was exported from does not; the export is broken and "
            "was not kept"
        )


def parity_rows(parity: Parity | None, reference: Subject) -> tuple[Measurement, ...]:
    """Return the rows of a report about the parity of an export, as those of the net, or its twin, in torch."""
    if parity is None:
        return ()
    gaps = {"clean": parity.max_abs_clean, "adversarial": parity.max_abs_adversarial}
    return tuple(
        Measurement(
            metric="parity_max_abs",
            subject=str(reference),
            value=gap,
            unit="logits",
            n=parity.n,
            conditions={"images": images, "between": f"torch and {parity.runtime}"},
        )
        for images, gap in gaps.items()
    )


def _torch_scores(net: nn.Module, images: Tensor) -> Scores:
    at_once = images_at_once(net, (images.shape[1], images.shape[2], images.shape[3]), len(images))
    with evaluating(net), torch.no_grad():
        answer = answers_of(net)
        scores: Scores = torch.cat([answer(pixels(part)) for part in torch.split(images, at_once)]).numpy()
    return scores
