"""Rehearsal: what export, counting and parity will ask of a net is asked of the untrained one, before any training.

Each check takes what is rehearsed and raises the error that a user would otherwise meet after the training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustdeploy.core.files import canonical_json, temporary_folder
from robustdeploy.core.plain import plain
from robustdeploy.core.recipe import Choice, Recipe
from robustdeploy.core.registry import BACKENDS, PRECISIONS
from robustdeploy.core.subject import FP32
from robustdeploy.core.target import OPSET
from robustdeploy.cost.module import macs
from robustdeploy.cost.onnx_graph import macs as onnx_macs
from robustdeploy.data.load import Loaded
from robustdeploy.errors import ArtifactError, RobustdeployError, UsageError
from robustdeploy.export.metadata import NO_METADATA
from robustdeploy.export.onnx_file import export_onnx
from robustdeploy.nets.normalised import Normalised
from robustdeploy.nets.twin import load_twin
from robustdeploy.onboard.types import Bytes, Scores, pixels_from_bytes
from robustdeploy.train.start import starting_net

LOOKED_AT = 4
"""Images whose scores are compared, together and alone."""
TOLERANCE = 1e-3
"""Largest gap between the scores of torch and of the exported file, over the largest score; float32 rounds to 1e-5."""

_FREE_BATCH = "its forward pass must not name a number of images (x.shape[0], not len(x))"


@dataclass(frozen=True)
class Rehearsed:
    """An untrained net in eval mode on the CPU, real images, and the file that an export of it would be."""

    name: str
    net: Normalised
    images: Bytes
    opset: int
    folder: Path

    @cached_property
    def scores(self) -> Scores:
        """What torch gives for the images."""
        with torch.no_grad():
            scores: Tensor = self.net(torch.from_numpy(pixels_from_bytes(self.images)))
        return scores.numpy()

    @cached_property
    def file(self) -> Path:
        """The exported net; raises ArtifactError where torch cannot export it."""
        path = self.folder / "rehearsed.onnx"
        export_onnx(self.net, self.images.shape[1:], path, self.opset, NO_METADATA)
        return path


def rehearse(recipe: Recipe, data: Loaded, opset: int = OPSET, precisions: Sequence[Choice] = ()) -> tuple[str, ...]:
    """Run every check on the recipe's net, and lower it to ``precisions``; the first that fails raises its error.

    Nothing is kept. What a user must know of a precision is returned, one sentence each. A net of this package or of
    torchvision that has passed in this process is not rehearsed again.
    """
    told = {"net": plain(recipe.net), "shape": data.image_shape, "classes": len(data.classes), "opset": opset}
    told |= {"preprocess": plain(list(recipe.preprocess))}
    mark = canonical_json({**told, "precisions": plain(list(precisions))})
    # Sweeps call this in one process again and again, and an export takes seconds.
    if mark in PASSED:
        return PASSED[mark]
    net = starting_net(recipe, data, torch.device("cpu")).eval()
    with temporary_folder() as folder:
        images = data.train.images[:LOOKED_AT].cpu().numpy()
        rehearsed = Rehearsed(f"net '{recipe.net.name}'", net, images, opset, folder)
        for check in CHECKS:
            check(rehearsed)
        if recipe.train.start is None:
            check_complete(rehearsed, recipe, data)
        notes = tuple(note for each in precisions for note in lowering_notes(rehearsed, each))
    if ":" not in recipe.net.name and recipe.train.start is None:  # what lies in a file may be another net next time
        PASSED[mark] = notes
    return notes


def lowering_notes(rehearsed: Rehearsed, choice: Choice) -> Iterator[str]:
    """Lower the file to a precision, and say what of that will not be known of its robustness.

    Raises UsageError where the net cannot be computed so.
    """
    if choice.name == FP32:
        return
    path = rehearsed.folder / f"{choice.name}.onnx"
    try:
        PRECISIONS.build(choice.name, choice.options).lower(rehearsed.file, path, pixels_from_bytes(rehearsed.images))
    except ArtifactError as problem:
        raise UsageError(f"{rehearsed.name} cannot be computed in {choice.name}: {problem}") from problem
    try:
        with torch.no_grad():
            load_twin(path)(torch.from_numpy(pixels_from_bytes(rehearsed.images)))
    except (ArtifactError, RuntimeError) as problem:
        yield f"in {choice.name} the net can be deployed, and rules on its robustness will be INCONCLUSIVE: {problem}"


def check_complete(rehearsed: Rehearsed, recipe: Recipe, data: Loaded) -> None:
    """Raise UsageError where the net is not the same again when it is built anew and given the weights that are stored.

    A layer in a plain list, or a random tensor that is no buffer, is neither trained nor stored.
    """
    # Another seed: what is neither a parameter nor a buffer is then drawn anew, and the scores give it away.
    other = recipe.model_copy(update={"seed": recipe.seed + 1})
    again = starting_net(other, data, torch.device("cpu")).eval()
    try:
        again.load_state_dict(rehearsed.net.state_dict())
    except RuntimeError as problem:
        told = " ".join(str(problem).split())[:200]
        raise UsageError(f"{rehearsed.name} is another net each time it is built: {told}") from problem
    with torch.no_grad():
        scores = again(torch.from_numpy(pixels_from_bytes(rehearsed.images))).numpy()
    # `not … <=` and not `>`: a NaN compares as false and must not pass.
    if not np.abs(scores - rehearsed.scores).max() <= TOLERANCE * np.abs(rehearsed.scores).max():
        raise UsageError(
            f"{rehearsed.name} gives other scores when it is built again with the same weights: some of its numbers "
            "are neither parameters nor buffers; put layers into nn.ModuleList, and tensors into register_buffer"
        )


def check_scores(rehearsed: Rehearsed) -> None:
    """Raise UsageError where the first images get scores that are no numbers."""
    if not np.isfinite(rehearsed.scores).all():
        raise UsageError(
            f"{rehearsed.name} gives scores that are not finite for the first training images, before any training; "
            "look for a division by 0, a logarithm or weights that are not set"
        )


def check_counts(rehearsed: Rehearsed) -> None:
    """Raise an error where the operations cannot be counted, or torch's net and the exported graph count otherwise."""
    counted = macs(rehearsed.net, rehearsed.images.shape[1:])
    # Two counters that share no code: a fault of one would have to be repeated in the other to go unseen.
    if (found := onnx_macs(rehearsed.file)) != counted:
        raise UsageError(
            f"the operations of {rehearsed.name} are counted differently: {counted:,} MACs as torch runs it, {found:,} "
            "in its ONNX graph; no budget could be certified. Write its products with torch.nn's layers"
        )


def check_parity(rehearsed: Rehearsed) -> None:
    """Raise UsageError where the exported file gives other scores than torch, for images together or alone."""
    backend: Any = BACKENDS.build("onnxruntime", {})
    pixels = pixels_from_bytes(rehearsed.images)
    try:
        model = backend.load(rehearsed.file)
        # Both: a batch of one hides a net that mixes its images, and a full batch hides one with a fixed size.
        together, alone = model(pixels), np.concatenate([model(pixel[None]) for pixel in pixels])
    except RobustdeployError:
        raise
    except Exception as problem:  # the runtime's own
        first = " ".join(str(problem).split())[:200]
        raise UsageError(
            f"{rehearsed.name} exports to an ONNX file that ONNX Runtime does not run ({first}); "
            f"{_FREE_BATCH}, or torch's exporter has a part of it wrong"
        ) from problem
    limit = TOLERANCE * float(np.abs(rehearsed.scores).max())
    for scores, how in ((together, "together"), (alone, "one by one")):
        if scores.shape != rehearsed.scores.shape or not np.abs(scores - rehearsed.scores).max() <= limit:
            raise UsageError(
                f"{rehearsed.name} gives other scores as an ONNX file than in torch for {len(pixels)} images {how}; "
                f"{_FREE_BATCH}, nor keep what it saw"
            )


PASSED: dict[str, tuple[str, ...]] = {}
"""What was found of nets in this process, or in one that was forked from the same."""
CHECKS: tuple[Callable[[Rehearsed], None], ...] = (check_scores, check_parity, check_counts)
