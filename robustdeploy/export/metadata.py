"""What an exported ONNX file says about itself."""

from __future__ import annotations

import onnx
from pydantic import Field

from robustdeploy.core.model import Noun
from robustdeploy.core.release import RELEASE

PREFIX = "robustdeploy."


class OnnxMetadata(Noun):
    """The entries under ``robustdeploy.`` in the file's metadata; all values are strings there."""

    schema_version: str = Field(default="1", alias="schema")
    recipe_sha256: str
    threat: str
    """Readable, e.g. ``linf 8/255``."""
    norm: str
    eps: float
    """Radius in pixels of [0, 1]."""
    ops_ratio: float
    macs: int
    """Of the whole graph, for one image."""
    macs_of: str = ""
    """Which operations ``macs`` counts; files of older versions do not say."""
    classes: str
    """Class names, one per line."""
    input_mean: str
    """Per channel, space-separated; already inside the graph."""
    input_std: str
    preprocess: str = ""
    """Steps in front of the net, one per line; already inside the graph."""


NO_METADATA = OnnxMetadata(
    recipe_sha256="", threat="", norm="", eps=0, ops_ratio=1, macs=0, classes="", input_mean="", input_std=""
)
"""Of a file that is tried out and not kept."""


def image_properties(channels: int) -> dict[str, str]:
    """ONNX's own image metadata: values in [0, 1], channels as stored."""
    return {
        "Image.BitmapPixelFormat": "Gray8" if channels == 1 else "Rgb8",
        "Image.ColorSpaceGamma": "SRGB",
        "Image.NominalPixelRange": "Normalized_0_1",
    }


def write_metadata(model: onnx.ModelProto, metadata: OnnxMetadata, channels: int, doc: str) -> None:
    """Put ``metadata`` and the producer into ``model``, replacing what the exporter wrote."""
    model.producer_name, model.producer_version = "robustdeploy", RELEASE
    model.model_version, model.doc_string, model.domain = 1, doc, "robustdeploy"
    # ONNX's metadata is text alone, and other tools write there too, hence the prefix.
    ours = {f"{PREFIX}{name}": str(value) for name, value in metadata.model_dump(by_alias=True).items()}
    onnx.helper.set_model_props(model, {**image_properties(channels), **ours})


def write_precision(model: onnx.ModelProto, precision: str) -> None:
    """Note in ``model`` what it computes in; a file that says nothing computes in float32."""
    held = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**held, f"{PREFIX}precision": precision})
