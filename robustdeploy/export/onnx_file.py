"""Turn a compact torch net into an ONNX file: normalisation inside, free batch, ``images`` in and ``scores`` out."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import onnx
import torch
from torch import nn

from robustdeploy.core.files import atomic_write_bytes
from robustdeploy.errors import ArtifactError
from robustdeploy.export.metadata import OnnxMetadata, write_metadata


def export_onnx(
    net: nn.Module, image_shape: tuple[int, int, int], path: Path, opset: int, metadata: OnnxMetadata, doc: str = ""
) -> None:
    """Write ``net`` to ``path``. Raises ArtifactError when the exporter cannot follow the net's forward pass."""
    net = copy.deepcopy(net).cpu().float().eval()
    # Two images: a batch of one would be taken for a constant.
    images = torch.zeros(2, *image_shape)
    try:
        with _quiet():
            program = torch.onnx.export(
                net,
                (images,),
                dynamo=True,
                opset_version=opset,
                input_names=["images"],
                output_names=["scores"],
                dynamic_shapes=({0: torch.export.Dim("N", min=1, max=65536)},),
                external_data=False,
            )
    except Exception as problem:
        first = str(problem).strip().splitlines()[0] if str(problem).strip() else ""
        raise ArtifactError(
            f"torch could not export this {type(net).__name__} to ONNX ({type(problem).__name__}: {first}); "
            "its forward pass must be plain tensor code without branches on values"
        ) from problem
    assert program is not None
    model = program.model_proto
    write_metadata(model, metadata, image_shape[0], doc)
    _name_batch(model)
    onnx.checker.check_model(model)
    atomic_write_bytes(path, model.SerializeToString(deterministic=True))


def _name_batch(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own talk off the terminal; its errors still arrive as exceptions."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
