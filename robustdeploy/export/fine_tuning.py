"""Fine-tuning: train the weights of an exported net as if it were rounded already, under the recipe's own objective.

Rounding passes its gradient straight through (Jacob et al., "Quantization and training of neural networks for efficient
integer-arithmetic-only inference", CVPR 2018). The ranges stay those that were calibrated.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from robustdeploy.core.files import atomic_write_bytes, make_folder
from robustdeploy.core.recipe import Recipe
from robustdeploy.data.load import Loaded
from robustdeploy.engine.stage import Work
from robustdeploy.export.precision.protocol import Tuning
from robustdeploy.nets.twin import Twin
from robustdeploy.train.loop import fit
from robustdeploy.train.setup import device_from, plan_from

FOLDER = "tuning"
"""In the stage's folder: what an interrupted fine-tuning goes on from."""
Progress = Callable[[int, int, Mapping[str, Any]], None]


def fine_tune(
    recipe: Recipe,
    model: onnx.ModelProto,
    onnx_file: Path,
    tuning: Tuning,
    data: Loaded,
    work: Work,
    progress: Progress,
) -> Path:
    """Train the weights of ``model``, which rounds, and return a copy of ``onnx_file`` that holds them.

    Resumes what an interrupted call has left.
    """
    folder = work.folder / FOLDER
    make_folder(folder)
    changed = {"epochs": tuning.epochs, "lr": tuning.lr, "phases": (), "precision": "fp32", "ema": None, "start": None}
    train = recipe.train.model_copy(update={**changed, "compile": False})
    device = device_from(recipe.train.device)
    plan = plan_from(recipe.model_copy(update={"train": train}), data, device, work.mark, pruned=False)
    twin = Twin(model, trainable=True).to(device)
    tuned: Any = fit(twin, None, plan, folder, progress, work.callback, work.place).net
    # By name: the exported file has the same weights, and no rounding around them.
    learnt = {name: tensor.detach().cpu().numpy() for name, tensor in tuned.weights.items() if tensor.requires_grad}
    exported = onnx.load(onnx_file)
    for tensor in exported.graph.initializer:
        if tensor.name in learnt:
            tensor.CopyFrom(numpy_helper.from_array(learnt[tensor.name], tensor.name))
    path = folder / "tuned.onnx"
    atomic_write_bytes(path, exported.SerializeToString(deterministic=True))
    return path


def forget(work: Work) -> None:
    """Remove what could be resumed from, once the lowered file is written."""
    shutil.rmtree(work.folder / FOLDER, ignore_errors=True)
