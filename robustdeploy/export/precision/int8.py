"""int8: explicit quantise and dequantise nodes around every product, with ranges measured on held-out images."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import onnx
from onnxruntime import quantization as ort
from pydantic import Field

from robustdeploy.core.files import atomic_write_bytes
from robustdeploy.errors import ArtifactError
from robustdeploy.export.metadata import write_precision
from robustdeploy.export.precision.protocol import Calibration, Limits, Tuning
from robustdeploy.export.precision.quiet import quiet
from robustdeploy.onboard.types import Pixels

_METHODS = {
    "min-max": ort.CalibrationMethod.MinMax,
    "entropy": ort.CalibrationMethod.Entropy,
    "percentile": ort.CalibrationMethod.Percentile,
}


@dataclass(frozen=True)
class Int8:
    """Weights per channel, activations per tensor, by `onnxruntime.quantization`."""

    # An honest net keeps about 98 of 100 labels; one with a wrong scale keeps far fewer of attacked images.
    LIMITS: ClassVar[Limits] = Limits(agreement=0.97, lowering=0.9, twin=0.97, golden=0.05, another=0.25)
    form: Literal["u8s8", "s8s8"] = "u8s8"
    """``u8s8``: unsigned activations, which x86 computes fast. ``s8s8``: symmetric with biases in float, which TensorRT
    asks for. It follows the target."""
    method: Literal["min-max", "entropy", "percentile"] = "min-max"
    """How a range is chosen from what was seen."""
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    """For ``method: percentile``."""
    images: Literal["clean", "adversarial", "mixed"] = "mixed"
    """What the ranges are measured on; attacked images reach further than clean ones."""
    count: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Images for that, held out or of the training set, never of the test set."""

    epochs: Annotated[int, Field(ge=0, le=1000)] = 0
    """Epochs of fine-tuning as if quantised, under the recipe's own objective; 0 trains nothing."""
    lr: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Peak learning rate of that."""

    @property
    def calibration(self) -> Calibration | None:
        """The images that ranges are measured on."""
        return Calibration(self.images, self.count)

    @property
    def tuning(self) -> Tuning | None:
        """How the weights are fine-tuned, where they are."""
        return Tuning(self.epochs, self.lr) if self.epochs else None

    def lower(self, onnx_file: Path, lowered: Path, images: Pixels | None) -> None:
        """Quantise; a net that the quantiser cannot follow is an ArtifactError."""
        model = self._quantised(onnx_file, images, {"QuantizeBias": self.form != "s8s8"})
        source = onnx.load(onnx_file, load_external_data=False)
        _float_scores(model)
        del model.metadata_props[:]
        model.metadata_props.extend(source.metadata_props)
        model.doc_string, model.producer_name = source.doc_string, source.producer_name
        write_precision(model, "int8")
        onnx.checker.check_model(model)
        atomic_write_bytes(lowered, model.SerializeToString(deterministic=True))

    def simulated(self, onnx_file: Path, images: Pixels | None) -> onnx.ModelProto:
        """Return the graph that rounds as the lowered one does and keeps its weights in float, to be trained."""
        return self._quantised(onnx_file, images, {"QuantizeBias": False, "AddQDQPairToWeight": True})

    def _quantised(self, onnx_file: Path, images: Pixels | None, options: dict[str, Any]) -> onnx.ModelProto:
        if images is None:
            raise ValueError("int8 needs images to calibrate on")
        symmetric = self.form == "s8s8"
        with tempfile.TemporaryDirectory(prefix="robustdeploy-") as folder, quiet():
            prepared, quantised = Path(folder) / "prepared.onnx", Path(folder) / "quantised.onnx"
            try:
                # The graph stays as it was exported, since the budget was counted on that. It has its shapes already;
                # working them out as symbols fails on graphs that compute with shapes.
                ort.shape_inference.quant_pre_process(
                    onnx_file, prepared, skip_optimization=True, skip_symbolic_shape=True
                )
                ort.quantize_static(
                    prepared,
                    quantised,
                    _Images(images),
                    quant_format=ort.QuantFormat.QDQ,
                    per_channel=True,
                    activation_type=ort.QuantType.QInt8 if symmetric else ort.QuantType.QUInt8,
                    weight_type=ort.QuantType.QInt8,
                    calibrate_method=_METHODS[self.method],
                    extra_options={
                        "WeightSymmetric": True,
                        "ActivationSymmetric": symmetric,
                        "CalibPercentile": self.percentile,
                        **options,
                    },
                )
                return onnx.load(quantised)
            except Exception as error:  # the quantiser raises whatever its parts do
                told = " ".join(str(error).split())[:300]
                raise ArtifactError(f"onnxruntime cannot quantise this net: {type(error).__name__}: {told}") from error


class _Images(ort.CalibrationDataReader):  # type: ignore[misc]
    """Feeds images one at a time: histograms are taken of batches of one size alone."""

    def __init__(self, images: Pixels) -> None:
        self._parts = iter([images[at : at + 1] for at in range(len(images))])

    def get_next(self) -> dict[str, Any] | None:
        """Return the next image, None after the last."""
        part = next(self._parts, None)
        return None if part is None else {"images": np.ascontiguousarray(part)}


def _float_scores(model: onnx.ModelProto) -> None:
    """Take the last pair of quantise and dequantise out, so that scores are as fine as the last product gives them.

    Of 256 steps, many images' scores would not move at all under an attack, and query attacks would have nothing to
    climb.
    """
    graph = model.graph
    made = {name: node for node in graph.node for name in node.output}
    scores = graph.output[0].name
    last = made.get(scores)
    if last is None or last.op_type != "DequantizeLinear":
        return
    before = made.get(last.input[0])
    if before is None or before.op_type != "QuantizeLinear":
        return
    source = made.get(before.input[0])
    readers = [node for node in graph.node if before.input[0] in node.input and node is not before]
    if source is None or readers:
        return
    source.output[list(source.output).index(before.input[0])] = scores
    for node in (last, before):
        graph.node.remove(node)


plugin = Int8
