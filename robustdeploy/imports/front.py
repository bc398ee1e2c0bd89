"""Front: a recipe's preprocessing steps in front of an ONNX file of others, in torch and as nodes of its graph."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import onnx
import torch
from onnx import version_converter

from robustdeploy.core.files import temporary_folder
from robustdeploy.core.recipe import Choice
from robustdeploy.errors import ArtifactError
from robustdeploy.export.metadata import NO_METADATA
from robustdeploy.export.onnx_file import export_onnx
from robustdeploy.imports.adapter import IMAGES, SCORES, names_in, renamed
from robustdeploy.imports.inspected import ImageShape
from robustdeploy.nets.graph import OURS
from robustdeploy.nets.preprocess.steps import Steps
from robustdeploy.nets.twin import opset_of
from robustdeploy.onboard.types import Bytes, Pixels, pixels_from_bytes

_LEAST = 18
"""Opset in which all that the steps are exported to is known."""
_READ, _PREFIX = f"{OURS}read", f"{OURS}preprocess/"
_AT_ONCE = 32


@dataclass(frozen=True)
class Front:
    """The steps, and the camera's images that come in."""

    steps: tuple[Choice, ...]
    camera: ImageShape

    @cached_property
    def module(self) -> Steps:
        """The steps in torch."""
        return Steps(self.steps)

    @cached_property
    def shape(self) -> ImageShape:
        """C, H and W of what they give."""
        return self.module.shape(self.camera)

    def read(self, images: Bytes) -> Pixels:
        """Return what the steps make of 8-bit images."""
        parts = torch.split(torch.from_numpy(pixels_from_bytes(images)), _AT_ONCE)
        read: Pixels = torch.cat([self.module(part) for part in parts]).numpy()
        return read

    def before(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return ``model``, from ``images`` to ``scores``, with the steps in front; without steps it is as it was.

        A file of an older opset is converted to 18; ArtifactError where that cannot be done.
        """
        if not self.steps:
            return model
        opset = max(_LEAST, opset_of(model))
        whole = onnx.ModelProto()
        whole.CopyFrom(model if opset == opset_of(model) else _converted(model))
        with temporary_folder() as folder:
            export_onnx(self.module, self.camera, folder / "steps.onnx", opset, NO_METADATA)
            steps = onnx.load(folder / "steps.onnx").graph
        renamed(whole.graph, {IMAGES: _READ})
        ends = {IMAGES: IMAGES, SCORES: _READ}
        renamed(steps, {name: ends.get(name, f"{_PREFIX}{name}") for name in names_in(steps) if name})
        nodes = [*steps.node, *whole.graph.node]
        inputs = [*steps.input, *(each for each in whole.graph.input if each.name != _READ)]
        del whole.graph.node[:], whole.graph.input[:]
        whole.graph.node.extend(nodes)
        whole.graph.input.extend(inputs)
        whole.graph.initializer.extend(steps.initializer)
        return whole


def _converted(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return version_converter.convert_version(model, _LEAST)
    except Exception as error:  # the converter's own exceptions share no base class but Exception
        words = " ".join(str(error).split())[:200]
    raise ArtifactError(
        f"preprocess: the file is of opset {opset_of(model)}, and cannot be converted to {_LEAST}, which the steps "
        f"in front of it are written in: {words}. Export it again with opset {_LEAST} or above"
    )
