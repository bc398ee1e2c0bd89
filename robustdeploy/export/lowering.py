"""Lowering: an exported net in another precision, and how far that is from the file in float32 and from its twin."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from robustdeploy.attacks.pgd import Pgd
from robustdeploy.core.files import atomic_write_bytes
from robustdeploy.core.interrupts import stop_if_interrupted
from robustdeploy.core.recipe import Recipe, Threat
from robustdeploy.core.records import Lowered, NetRecord, OnnxRecord, Parity
from robustdeploy.core.registry import BACKENDS
from robustdeploy.core.trust import Trust
from robustdeploy.cost.memory import images_at_once
from robustdeploy.data.images import pixels
from robustdeploy.data.load import Loaded
from robustdeploy.data.noise import Noise
from robustdeploy.engine.stage import Finished, Work
from robustdeploy.errors import ArtifactError
from robustdeploy.export.exporting import attacked, held_out_images
from robustdeploy.export.fine_tuning import Progress, fine_tune, forget
from robustdeploy.export.golden import GOLDEN, golden_images
from robustdeploy.export.precision.protocol import Calibration, Limits, Precision, Tunable
from robustdeploy.nets.store import load_info, load_net
from robustdeploy.nets.twin import load_twin
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.draws import key
from robustdeploy.onboard.types import Bytes, Model, Scores, pixels_from_bytes
from robustdeploy.train.facts import HELD_OUT

ATTACK = Pgd(steps=10)
"""Of the images that ranges are measured on."""


@dataclass(frozen=True)
class Asked:
    """A precision as it is asked for."""

    name: str
    options: Mapping[str, Any]
    precision: Precision


def lower(
    recipe: Recipe,
    asked: Asked,
    made: tuple[Finished[NetRecord], Finished[OnnxRecord]],
    data: Loaded | None,
    work: Work,
    progress: Progress,
    trust: Trust = False,
) -> OnnxRecord:
    """Write an exported net in another precision, and measure what that changed and how true its twin is.

    ``made`` are the trained net and its export; ``data`` is needed where the precision asks for images. Raises
    ArtifactError where the net cannot be computed so.
    """
    trained, exported = made
    path, onnx = work.folder / "model.onnx", exported.folder / "model.onnx"
    precision = asked.precision
    net, info = load_net(trained.folder, trust=trust), load_info(trained.folder)
    chosen = _calibration_images(net, precision.calibration, data, recipe)
    seen = None if chosen is None else pixels_from_bytes(chosen)
    source, tuning = onnx, precision.tuning if isinstance(precision, Tunable) else None
    if isinstance(precision, Tunable) and tuning is not None and data is not None:
        source = fine_tune(recipe, precision.simulated(onnx, seen), onnx, tuning, data, work, progress)
    precision.lower(source, path, seen)
    forget(work)
    stop_if_interrupted()
    clean, labels = held_out_images(trained.folder, info)
    sets = {"clean": clean, "adversarial": attacked(net, clean, labels, recipe.threat)}
    backend: Any = BACKENDS.build("onnxruntime", {})
    before, after = backend.load(onnx), backend.load(path)
    told = {name: (_alone(before, images), _alone(after, images)) for name, images in sets.items()}
    if not all(np.isfinite(scores).all() for pair in told.values() for scores in pair):
        raise ArtifactError(
            f"in {asked.name} this net gives scores that are not finite (NaN or infinity): its activations leave the "
            "range of that precision; deploy it in fp32"
        )
    limits: Limits = precision.LIMITS
    parity, why = _twin_parity(path, sets, {name: pair[1] for name, pair in told.items()}, backend.probe().version)
    kept = {name: _agreement(*pair) for name, pair in told.items()}
    lowered = Lowered(
        precision=asked.name,
        options=dict(asked.options),
        agreement_clean=kept["clean"],
        agreement_adversarial=kept["adversarial"],
        max_abs_clean=float(np.abs(np.subtract(*told["clean"])).max()),
        span=float(np.ptp(told["clean"][0])),
        n=len(clean),
        tuned_epochs=tuning.epochs if tuning else 0,
        calibration=_calibration_facts(precision.calibration, chosen, recipe.seed),
        twin_problem=why or _void(parity, limits),
    )
    atomic_write_bytes(work.folder / GOLDEN, golden_images(clean, labels, told["clean"][1]))
    work.keep("model.onnx", GOLDEN)
    return exported.record.model_copy(
        update={"parity": parity, "lowered": lowered, "given": None, "notes": tuple(_notes(lowered, limits))}
    )


def _alone(model: Model, images: Bytes) -> Scores:
    """Score images one at a time, as a camera delivers them."""
    pixels = pixels_from_bytes(images)
    return np.concatenate([model(pixels[at : at + 1]) for at in range(len(pixels))])


def _agreement(one: Scores, other: Scores) -> float:
    return float(CLASSIFICATION.right(other, CLASSIFICATION.predictions(one)).mean())


def _twin_parity(
    path: Path, sets: Mapping[str, Bytes], theirs: Mapping[str, Scores], version: str
) -> tuple[Parity | None, str]:
    """Compare the twin of the file at ``path`` with the runtime's scores; say why where there is no twin."""
    try:
        twin = load_twin(path)
        ours = {name: _scores(twin, images) for name, images in sets.items()}
    except (ArtifactError, RuntimeError) as error:
        return None, " ".join(str(error).split())[:300]
    gaps = {name: float(np.abs(ours[name] - theirs[name]).max()) for name in sets}
    agreements = {name: _agreement(theirs[name], ours[name]) for name in sets}
    return Parity(
        runtime=f"onnxruntime {version}",
        n=len(sets["clean"]),
        max_abs_clean=gaps["clean"],
        max_abs_adversarial=gaps["adversarial"],
        agreement_clean=agreements["clean"],
        agreement_adversarial=agreements["adversarial"],
    ), ""


def _scores(net: nn.Module, images: Bytes) -> Scores:
    with torch.no_grad():
        parts = [net(pixels(part)).float() for part in torch.split(torch.from_numpy(images), 32)]
    scores: Scores = torch.cat(parts).numpy()
    return scores


def _void(parity: Parity | None, limits: Limits) -> str:
    assert parity is not None
    least = min(parity.agreement_clean, parity.agreement_adversarial)
    if least >= limits.twin:
        return ""
    return (
        f"it labels {least:.1%} of {parity.n} held-out images as the runtime does, and {limits.twin:.0%} are asked for"
    )


def _calibration_images(
    net: nn.Module, wanted: Calibration | None, data: Loaded | None, recipe: Recipe
) -> Bytes | None:
    if wanted is None:
        return None
    assert data is not None
    # The first held-out images are what the result is compared on, so ranges are measured on others where there are.
    held_out, training = data.validation.images[HELD_OUT:], data.train.images
    images = torch.cat([held_out, training])[: wanted.count]
    labels = torch.cat([data.validation.labels[HELD_OUT:], data.train.labels])[: wanted.count]
    attacks = {"clean": 0, "mixed": len(images) // 2, "adversarial": len(images)}[wanted.images]
    found = _attacked(net, images[:attacks], labels[:attacks], recipe)
    calibration: Bytes = torch.cat([found, images[attacks:]]).numpy()
    return calibration


def _attacked(net: nn.Module, images: torch.Tensor, labels: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    threat: Threat = recipe.threat
    if not len(images):
        return images
    shape = (images.shape[1], images.shape[2], images.shape[3])
    parts, at_once = [], images_at_once(net, shape, len(images))
    for ids in torch.split(torch.arange(len(images)), at_once):
        stop_if_interrupted()
        noise = Noise(key(recipe.seed, "calibration"), ids)
        parts.append(torch.round(ATTACK(net, pixels(images[ids]), labels[ids], threat, noise) * 255))
    return torch.cat(parts).to(torch.uint8)


def _calibration_facts(wanted: Calibration | None, chosen: Bytes | None, seed: int) -> dict[str, Any]:
    if wanted is None or chosen is None:
        return {}
    digest = hashlib.sha256(np.ascontiguousarray(chosen).tobytes()).hexdigest()
    return {"images": wanted.images, "n": len(chosen), "sha256": digest, "seed": seed}


def _notes(lowered: Lowered, limits: Limits) -> list[str]:
    notes = []
    least = min(lowered.agreement_clean, lowered.agreement_adversarial)
    if least < limits.lowering and not lowered.tuned_epochs:
        notes.append(
            f"in {lowered.precision} the net labels {least:.1%} of {lowered.n} held-out images, clean or attacked, as "
            "in fp32; calibrate on more images or by another method"
        )
    if lowered.twin_problem:
        notes.append(
            f"the {lowered.precision} net has no twin that can be attacked: {lowered.twin_problem}; rules on robust "
            "accuracy will be INCONCLUSIVE"
        )
    return notes
