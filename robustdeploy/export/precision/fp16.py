"""float16: weights and activations are typed as 16-bit floats in the graph; pixels and scores stay float32."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from robustdeploy.core.files import atomic_write_bytes
from robustdeploy.errors import ArtifactError
from robustdeploy.export.metadata import write_precision
from robustdeploy.export.precision.protocol import Calibration, Limits
from robustdeploy.export.precision.quiet import quiet
from robustdeploy.onboard.types import Pixels

_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Fp16:
    """By the types of the graph, so that every runtime computes the same numbers or refuses."""

    # Ten bits of mantissa: a share of 1e-3 of the largest activation is lost, and labels flip at near-ties alone.
    LIMITS: ClassVar[Limits] = Limits(golden=0.02)

    @property
    def calibration(self) -> Calibration | None:
        """None is needed."""
        return None

    def lower(self, onnx_file: Path, lowered: Path, images: Pixels | None) -> None:
        """Write the graph in 16-bit floats; weights that these cannot hold are an ArtifactError."""
        model = onnx.load(onnx_file)
        _check_range(model)
        with quiet():
            # Its own limits would clip weights above 10,000 without a word.
            half = convert_float_to_float16(
                model, keep_io_types=True, min_positive_val=5.96e-8, max_finite_val=_LARGEST, op_block_list=None
            )
        # The converter puts its casts at the end, and not every runtime sorts nodes.
        OnnxModel(half).topological_sort()
        write_precision(half, "fp16")
        onnx.checker.check_model(half)
        atomic_write_bytes(lowered, half.SerializeToString(deterministic=True))


def _check_range(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        most = np.abs(numpy_helper.to_array(tensor)).max(initial=0)
        if most > _LARGEST:
            raise ArtifactError(
                f"the weights {tensor.name} reach {most:.3g}, and float16 ends at {_LARGEST:,.0f}; deploy this net in "
                "fp32, or train it with more train.weight_decay"
            )


plugin = Fp16
